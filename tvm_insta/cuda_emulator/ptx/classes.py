"""Which unit of a multiprocessor executes an instruction, for counts.

PTX is not what a card executes, so a count is an estimate: moves, addresses of parameters and the
like vanish in machine code, and 64-bit integers take two instructions. Nothing of it is a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class Unit(Enum):
    """A pipe of a multiprocessor; `NONE` takes no slot."""

    NONE = 0
    INTEGER = 1
    FLOAT = 2
    DOUBLE = 3
    POPCOUNT = 4
    CONVERT = 5
    MATRIX_BITS = 6
    MATRIX_BYTES = 7
    MEMORY = 8
    WARP = 9
    CONTROL = 10


@dataclass(frozen=True)
class Cost:
    """`count` instructions of a unit."""

    unit: Unit
    count: int = 1


_FLOAT = r"(?:\.\w+)*\.f32"
_DOUBLE = r"(?:\.\w+)*\.f64"
_WIDE = r"(?:\.\w+)*\.[bus]64"
# In this order: the first that matches the whole opcode. How a division is made is ptxas's choice;
# its length here is about that of what CUDA 13 makes of one.
_COSTS: tuple[tuple[str, Cost], ...] = (
    (r"(?:mov|cvta|ld\.param|ret|exit|membar|fence)\b.*", Cost(Unit.NONE)),
    (r"mma\..*\.b1\.b1\..*", Cost(Unit.MATRIX_BITS)),
    (r"mma\..*", Cost(Unit.MATRIX_BYTES)),
    (r"cp\.async\.(?:commit_group|wait_group|wait_all)", Cost(Unit.CONTROL)),
    (r"(?:ld|ldu|st|ldmatrix|cp)\b.*", Cost(Unit.MEMORY)),
    (r"(?:shfl|vote|redux)\b.*", Cost(Unit.WARP)),
    (r"(?:bra|bar|barrier)\b.*", Cost(Unit.CONTROL)),
    (r"(?:popc|clz|brev|bfind)\.b64", Cost(Unit.POPCOUNT, 2)),
    (r"(?:popc|clz|brev|bfind)\b.*", Cost(Unit.POPCOUNT)),
    (r"cvt\.(?:u64|s64)\.(?:u32|s32)|cvt\.(?:u32|s32)\.(?:u64|s64)", Cost(Unit.INTEGER)),
    (r"cvt\b.*", Cost(Unit.CONVERT)),
    (rf"(?:div|rem){_WIDE}", Cost(Unit.INTEGER, 80)),
    (r"(?:div|rem)(?:\.\w+)*\.[bus](?:16|32)", Cost(Unit.INTEGER, 20)),
    (rf"(?:div|sqrt|rcp){_FLOAT}", Cost(Unit.FLOAT, 12)),
    (rf"(?:div|sqrt|rcp){_DOUBLE}", Cost(Unit.DOUBLE, 12)),
    (rf"\w+{_DOUBLE}", Cost(Unit.DOUBLE)),
    (rf"(?:add|sub|mul|fma|mad){_FLOAT}", Cost(Unit.FLOAT)),
    (r"(?:mul|mad)\.lo\.[us]64", Cost(Unit.INTEGER, 4)),
    (r"(?:mul|mad)\.hi\.[us]64", Cost(Unit.INTEGER, 6)),
    (r"(?:mul|mad)\.wide\..*", Cost(Unit.INTEGER)),
    (rf"\w+{_WIDE}", Cost(Unit.INTEGER, 2)),
    (r"\w+(?:\.\w+)*", Cost(Unit.INTEGER)),  # what is left works on 32 bits, or on predicates
)
_PATTERNS = tuple((re.compile(pattern), cost) for pattern, cost in _COSTS)


def cost_of(opcode: str) -> Cost:
    """What an instruction costs; every opcode has a cost, `emit` refuses those it does not know."""
    return next(cost for pattern, cost in _PATTERNS if pattern.fullmatch(opcode))
