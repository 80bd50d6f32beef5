"""What every schedule rule shares: CPU families, tile parameters, and small queries on a schedule.

A rule takes a `Kernel` (a PrimFunc in a TVM schedule) and changes it. It raises `OtherKind` when
the function is not of its kind, and `NotApplicable` when it is but has a form that the rule cannot
schedule; the next rule then gets a fresh copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk

# Below this many steps starting the threads costs more than they save.
_PARALLEL_STEPS = 1 << 14


# Up to this extent a last axis is unrolled, not vectorised.
_FEW = 3

# Tasks that one image should offer to the threads.
_TASKS = 8


SCHEDULE_VERSION = 1
"""Counts the changes of the rules after which a measured time no longer tells which parameters are
best: other loop nests, other meanings of a parameter. New parameters with the old meaning at their
default do not count."""


class OtherKind(Exception):
    """The function is of a kind that another rule schedules."""


class NotApplicable(Exception):
    """The function is of the rule's kind, but the rule cannot schedule it; the message says why."""


class WordMask(Enum):
    """How `threshold_pack` gathers 32 comparisons into a word."""

    MOVMSK256 = "vpmovmskb of 32 bytes"
    MOVMSK128 = "pmovmskb of 16 bytes, twice"
    ADDP = "AArch64's pairwise additions of bytes"
    VPADD = "armv7's pairwise additions of bytes"
    OR = "an OR across shifted bits"


class BinarySum(Enum):
    """How a binary convolution sums its counts of bits."""

    WORDS = "a popcount of 32-bit lanes"
    BYTE_COUNTS = "counts of bytes, from table look-ups"
    NIBBLES = "counts of four bits, from a table for each four bits of data"
    BYTES = "NEON: sums in bytes"
    PAIRS = "NEON: sums in pairs of bytes, for sixteen registers"
    DOT = "NEON: dot products with ones add the counts of four bytes"


@dataclass(frozen=True)
class Family:
    """A class of CPUs that wants the same tiles.

    Attributes:
        name: "avx512", "avx2", "sse", "neon", "neon_dot", "armv7" or "generic".
        lanes: 32-bit lanes of a vector register.
        accumulators: vector registers that a binary convolution may fill with sums.
        float_accumulators: the same for a float convolution, whose inner step needs no temporaries.
        word_mask: how `threshold_pack` gathers comparisons.
        binary: how a binary convolution sums.
        binary_sums: vector registers that a sum on NEON may fill.
        nibble_lanes: bytes of the widest vector that looks up in a table of 16 bytes; 0 for none.
        float_block: output channels of a block of a float weight; 0 for one vector of them.
        lane_loads: numbers that a float convolution loads at a time to multiply by each, see
            `arm.lane_loads`; 0 where it broadcasts them.
        flushes_subnormals: whether float vector instructions take subnormal numbers for zero.
        amx_tiles: whether there are AMX tiles of bytes, for the rule in `x86.amx`.
        amx_bf16: the same of tiles of bfloat16 numbers.
    """

    name: str
    lanes: int
    accumulators: int
    float_accumulators: int
    word_mask: WordMask
    binary: BinarySum = BinarySum.WORDS
    binary_sums: int = 0
    nibble_lanes: int = 0
    flushes_subnormals: bool = False
    float_block: int = 0
    lane_loads: int = 0
    amx_tiles: bool = False
    amx_bf16: bool = False


@dataclass(frozen=True)
class Blocking:
    """How a binary weight is laid out for a family of CPUs.

    Attributes:
        dtype: "uint8" or "uint16" for pieces, "uint32" for words.
        lanes: output channels of a block.
        counts: what is counted at a time: "pieces", "bytes" of words, or "nibbles" of bytes that
            hold no more.
    """

    dtype: str
    lanes: int
    counts: str = "pieces"


@dataclass(frozen=True)
class Tiles:
    """Sizes that a schedule can be told, and that tuning chooses; each kind is a frozen dataclass.

    Fields are integers and truth values.
    """


@dataclass(frozen=True)
class ConvTiles(Tiles):
    """Tile sizes of a convolution; 0 lets the schedule choose.

    Attributes:
        width_tile: neighbouring output pixels of a row whose sums are held in registers.
        out_tile: vectors of output channels that are held for each of these pixels.
        row_band: output rows that one parallel task computes.
        unroll_taps: kernel columns are unrolled.
        step_words: words of a pixel that dot products sum without a loop between them.
        tail_lanes: channels of a tile whose epilogue is computed at a time, pixel by pixel.
        expand_ahead: AMX tiles of weights that are made of bits ahead of the one in use; with 0 a
            task makes all of its own first.
        group_rows: output rows whose sums lie end to end in AMX tiles.

    `step_words` and `tail_lanes` are of the rule in `neon` alone, `expand_ahead` and `group_rows`
    of the one in `amx`; they stay 0 elsewhere.
    """

    width_tile: int = 0
    out_tile: int = 0
    row_band: int = 0
    unroll_taps: bool = False
    step_words: int = 0
    tail_lanes: int = 0
    expand_ahead: int = 0
    group_rows: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that mean nothing."""
        for name, value in vars(self).items():
            if name == "unroll_taps":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}; pass a positive integer, or 0 to choose it")


@dataclass
class Kernel:
    """One PrimFunc under way.

    Attributes:
        schedule: holds the PrimFunc as its function "main"; a rule may replace it.
        family: the CPU family to schedule for.
        lanes: 32-bit lanes that element-wise code is vectorised by.
        tiles: wished tile sizes.
    """

    schedule: s_tir.Schedule
    family: Family
    lanes: int
    tiles: ConvTiles


def start(function: tirx.PrimFunc) -> s_tir.Schedule:
    """A schedule of `function` as "main", which leaves `function` itself as it is.

    TVM 0.27 changes a root block in place when only one BlockRealize holds it, and does not look
    whether that BlockRealize has several owners: a second one makes it copy.
    """
    own = function.with_body(s_tir.SBlockRealize([], True, function.body.block))
    return s_tir.Schedule(IRModule({"main": own.with_attr("global_symbol", "main")}))


def with_symbol_of(scheduled: tirx.PrimFunc, original: tirx.PrimFunc) -> tirx.PrimFunc:
    """Give the scheduled function the original's symbol, or none."""
    symbol = original.attrs.get("global_symbol") if original.attrs else None
    if symbol is None:
        return scheduled.without_attr("global_symbol")
    return scheduled.with_attr("global_symbol", symbol)


def blocks(schedule: s_tir.Schedule) -> list[Any]:
    """The blocks of the function, in order."""
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def name_of(schedule: s_tir.Schedule, block: Any) -> str:
    """Name of a block."""
    return str(schedule.get(block).name_hint)


def is_among(schedule: s_tir.Schedule, block: Any, others: Sequence[Any]) -> bool:
    """Whether the block is one of `others`; every query names blocks anew."""
    return any(schedule.get(block).same_as(schedule.get(other)) for other in others)


def rule_of(schedule: s_tir.Schedule, block: Any) -> str:
    """The block's `schedule_rule` annotation, or ""."""
    return str(schedule.get(block).annotations.get("schedule_rule", ""))


def is_reduction(schedule: s_tir.Schedule, block: Any) -> bool:
    """Whether the block has a reduction axis."""
    return any(v.iter_type == tirx.IterVar.CommReduce for v in schedule.get(block).iter_vars)


def is_output(schedule: s_tir.Schedule, block: Any) -> bool:
    """Whether the block writes a parameter of the function."""
    parameters = list(schedule.mod["main"].params)
    written = [region.source for region in schedule.get(block).writes]
    return any(buffer.same_as(p) for buffer in written for p in parameters)


def reads_in_place(schedule: s_tir.Schedule, consumer: Any, producer: Any) -> bool:
    """Whether `consumer` reads `producer`'s result only at the very index it writes.

    TVM's reverse_compute_at does not check this: behind it a consumer that pads or shifts would
    leave the elements unwritten that no element of the producer maps to.
    """
    made = schedule.get(producer).writes[0].source
    block = schedule.get(consumer)
    written = [r.min for r in block.writes[0].region]
    axes = [axis.var for axis in block.iter_vars]
    loads = [load for load in collect(block.body, TensorLoad) if load.source.same_as(made)]
    return (
        len(written) == len(axes) == len(made.shape)
        and all(w.same_as(a) for w, a in zip(written, axes, strict=True))
        and bool(loads)
        and all(i.same_as(a) for load in loads for i, a in zip(load.indices, axes, strict=True))
        and all(
            tvm.sym.Analyzer().can_prove_equal(a, b)
            for a, b in zip(made.shape, block.writes[0].source.shape, strict=True)
        )
    )


def extent(schedule: s_tir.Schedule, loop: Any) -> int | None:
    """Extent of a loop, None where it is symbolic."""
    value = schedule.get(loop).extent
    return int(value) if isinstance(value, tirx.IntImm) else None


def known_extent(schedule: s_tir.Schedule, loop: Any) -> int:
    """Extent of a loop that has to be static."""
    value = extent(schedule, loop)
    if value is None:
        raise NotApplicable(f"loop {schedule.get(loop).loop_var.name} has a symbolic extent")
    return value


def collect(node: Any, kind: type) -> list[Any]:
    """All nodes of type `kind` in an expression or statement."""
    found: list[Any] = []
    structural_walk(node, (kind, found.append))
    return found


def divisors(value: int) -> list[int]:
    """The divisors of a positive integer, ascending."""
    return [d for d in range(1, value + 1) if value % d == 0]


def largest_divisor(value: int, limit: int) -> int:
    """The largest divisor of `value` that is at most `limit` (at least 1)."""
    return max(d for d in divisors(value) if d <= max(limit, 1))


def band_height(height: int, others: int) -> int:
    """Rows per parallel task, so that there are enough tasks and each is as long as possible.

    A task fetches its scratch memory once, which costs about as much as 100 vector operations.

    Args:
        height: rows of one image.
        others: tasks that other loops offer already.
    """
    wanted = -(-_TASKS // max(others, 1))
    return height // min((d for d in divisors(height) if d >= wanted), default=height)


def vectorise_last(schedule: s_tir.Schedule, loops: Sequence[Any], lanes: int) -> None:
    """Vectorise the innermost of `loops` by `lanes`, or by the largest divisor that fits."""
    last = loops[-1]
    size = extent(schedule, last)
    if size is None:
        return
    width = lanes if size % lanes == 0 else largest_divisor(size, lanes)
    if size <= _FEW:
        # Three channels, say: LLVM makes vectors of the pixels, and weaves the channels.
        schedule.unroll(last)
        return
    if width == 1:
        return
    _, inner = schedule.split(last, [None, width])
    schedule.vectorize(inner)


def parallelise(schedule: s_tir.Schedule, loops: Sequence[Any]) -> None:
    """Fuse `loops` into one and run it in parallel, unless it is known to run once.

    Every iteration writes elements of its own and sums are never split, so the result does not
    depend on the number of threads.
    """
    loop = schedule.fuse(*loops) if len(loops) > 1 else loops[0]
    if extent(schedule, loop) != 1:
        schedule.parallel(loop)


def elementwise_pass(kernel: Kernel, block: Any) -> None:
    """One element-wise pass: lanes on the last axis, threads on the others."""
    schedule = kernel.schedule
    loops = schedule.get_loops(block)
    if not loops:
        return
    threads = worth_threads(schedule, loops)
    vectorise_last(schedule, loops, kernel.lanes)
    if len(loops) > 1 and threads:
        # Rows stay loops of their own: in one loop over all pixels every index is a division.
        parallelise(schedule, loops[:-2] if len(loops) > 2 else loops[:-1])


def worth_threads(schedule: Any, loops: list[Any]) -> bool:
    """Whether the loops hold enough work for threads; a symbolic extent counts as 1 image."""
    steps = 1
    for loop in loops:
        steps *= extent(schedule, loop) or 1
    return steps >= _PARALLEL_STEPS
