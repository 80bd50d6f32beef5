"""The hot loop of a kernel's assembly, and the multiply-accumulates of one of its iterations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_insta.errors import TuneError
from tvm_insta.schedules import BINARY_CONVOLUTIONS

_LABEL = re.compile(r"^(\.L\w+):")
_INSTRUCTION = re.compile(r"^\s+([a-z][\w.]*)\s*(.*?)\s*$")
_BRANCH = re.compile(r"^(?:j\w+|b(?:\.\w+|[a-z]{2})?|cbn?z|tbn?z)$")
_TARGET = re.compile(r"(\.L\w+)\s*$")

# A step of a binary convolution has one xor, a step of a float one has one multiplication.
_XOR = re.compile(r"^(?:v?pxor[dq]?|v?xorps|veor|eor)$")
_MULTIPLY = re.compile(r"^(?:vfn?madd\w*ps|v?mulps|fmla|fmul|vmla\.f32|vfma\.f32|vmul\.f32)$")


@dataclass(frozen=True)
class Loop:
    """An innermost loop.

    Attributes:
        lines: its instructions, the branch back included.
        macs: multiply-accumulates of one iteration.
    """

    lines: tuple[str, ...]
    macs: int


def hot_loop(text: str, rule: str) -> Loop:
    """The innermost loop with the most multiply-accumulates of a kernel of this rule.

    Raises:
        TuneError: no loop has any.
    """
    lines = text.splitlines()
    found = [_loop(lines[first:last], rule) for first, last in _innermost(lines)]
    best = max(found, key=lambda loop: loop.macs, default=None)
    if best is None or best.macs == 0:
        raise TuneError("the assembly has no loop with vector multiply-accumulates")
    return best


def _innermost(lines: Sequence[str]) -> list[tuple[int, int]]:
    """First line and end of every loop that holds no other: a branch back to a label."""
    labels = {m[1]: number for number, line in enumerate(lines) if (m := _LABEL.match(line))}
    loops = []
    for number, line in enumerate(lines):
        match = _INSTRUCTION.match(line)
        if match is None or not _BRANCH.match(match[1]):
            continue
        target = _TARGET.search(match[2])
        start = labels.get(target[1], number) if target else number
        if start < number:
            loops.append((start, number + 1))
    return [
        one
        for one in loops
        if not any(other != one and one[0] <= other[0] and other[1] <= one[1] for other in loops)
    ]


def _loop(lines: Sequence[str], rule: str) -> Loop:
    step, bits = (_XOR, 1) if rule in BINARY_CONVOLUTIONS else (_MULTIPLY, 32)
    own = []
    width = 0
    for line in lines:
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        own.append(f"{match[1]} {match[2]}")
        if step.match(match[1]):
            width += _vector_bits(match[2])
    return Loop(tuple(own), width // bits)


def _vector_bits(operands: str) -> int:
    """Width of a vector instruction by its operands: 0 for none, and for x ^ x, which is a zero."""
    names = [name.strip() for name in operands.split(",")]
    if len(names) > 1 and len(set(names)) == 1:
        return 0
    for pattern, width in (
        (r"%?zmm\d", 512),
        (r"%?ymm\d", 256),
        (r"%?xmm\d", 128),
        (r"\bv\d+\.(?:16b|8h|4s|2d)", 128),
        (r"\bv\d+\.(?:8b|4h|2s)", 64),
        (r"\bq\d", 128),
        (r"\bd\d", 64),
    ):
        if re.search(pattern, operands):
            return width
    return 0
