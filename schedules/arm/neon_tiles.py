"""The tiles of a binary convolution on NEON: what fits a layer, what is taken, what may be tried.

`neon` says what the tiles mean and why the sizes that are taken by themselves are good ones. All of
them give the same bits: a popcount is an integer, and no sum of floats is split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_insta.schedules.arm.inner_loop import BYTES, DOT, PAIRS, Step
from tvm_insta.schedules.base import (
    BinarySum,
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    OtherKind,
    band_height,
    blocks,
    divisors,
    known_extent,
    largest_divisor,
    rule_of,
)
from tvm_insta.schedules.generic.conv import lanes_cross_groups

RULES = {"insta_bconv_bytes": BYTES, "insta_bconv_pairs": PAIRS}

_BEFORE = {BYTES: 2, PAIRS: 1, DOT: 0}  # blocks in front of the convolution

# Uneven tiles of one row; each has code of its own, up to 6 KB.
_MOST_PARTS = 4

# Pixels of a tile: each needs a register for what is fetched of it.
_MOST_ACROSS = 8

# Vectors of sums that are worth a measurement, as a share of the family's own budget.
_OVER_BUDGET = 1.5

# Bands that are worth a measurement in place of one.
_MOST_BANDS = 4

# Words of a pixel that dot products sum in a step without a loop: by default, and at most. Four of
# them are one vector.
_WORDS, _MOST_WORDS = 2, 4

# Channels whose epilogue is computed at a time, pixel by pixel: by default two vectors of floats.
# With more, LLVM may keep so many constants of the channels that it runs out of registers.
_TAIL, _TAILS = 8, (4, 8, 16)


@dataclass(frozen=True)
class NeonShape:
    """What the tiles of a convolution have to fit.

    Attributes:
        rule: of its block.
        at: position of its block in the function.
        step: how it sums.
        height: output rows.
        width: output pixels of a row.
        channels: output channels.
        vectors: vectors of output channels of a block of the weight.
        words: words of a tap, for a sum by dot products; 1 for other sums, which fetch units.
    """

    rule: str
    at: int
    step: Step
    height: int
    width: int
    channels: int
    vectors: int
    words: int

    def tail_channels(self, deep: int) -> int:
        """Channels for which the epilogue can be computed at a time, `deep` vectors in a tile."""
        return self.step.lanes if self.step is BYTES else self.step.lanes * deep


def neon_shape(schedule: Any, family: Family) -> NeonShape:
    """Find the convolution of a function that is not scheduled yet.

    Raises:
        NotApplicable: there is none for the rule in `neon`, or it is of another form.
    """
    mine = {**RULES, **({"insta_bconv": DOT} if family.binary is BinarySum.DOT else {})}
    every = blocks(schedule)
    rules = [rule_of(schedule, block) for block in every]
    found = [i for i, rule in enumerate(rules) if rule in mine]
    if not found:
        raise OtherKind
    if len(found) > 1:
        raise NotApplicable(f"{len(found)} convolution blocks")
    (at,) = found
    step = mine[rules[at]]
    if at != _BEFORE[step]:
        raise NotApplicable("a block before the convolution")
    lanes = _block_lanes(schedule, every[: at + 1])
    if lanes % step.lanes:
        raise NotApplicable(f"the weight has blocks of {lanes} channels")
    _, row, column, out, *summed = schedule.get_loops(every[at])
    if step is DOT and len(summed) > 3:  # ky, kx, word
        raise NotApplicable("several bit planes")
    if step is DOT and lanes_cross_groups(schedule, every[at], lanes):
        raise NotApplicable("the channels of a vector read different groups")
    return NeonShape(
        rule=rules[at],
        at=at,
        step=step,
        height=known_extent(schedule, row),
        width=known_extent(schedule, column),
        channels=known_extent(schedule, out),
        vectors=lanes // step.lanes,
        words=known_extent(schedule, summed[-1]) if step is DOT else 1,
    )


def choose_tiles(wish: ConvTiles, shape: NeonShape, family: Family) -> ConvTiles:
    """Fill in the sizes that `wish` leaves open; the channels of a tile lie in one weight block.

    Raises:
        NotApplicable: a wish does not fit the convolution.
    """
    deep = wish.out_tile or largest_divisor(shape.vectors, 4)
    if shape.vectors % deep:
        raise NotApplicable(f"out_tile {deep} does not divide {shape.vectors} vectors")
    across = wish.width_tile
    if not across:
        most = max(1, min(family.binary_sums // deep, 4 if deep > 1 else _MOST_ACROSS))
        parts = -(-shape.width // most)
        fits = parts <= _MOST_PARTS
        across = -(-shape.width // parts) if fits else largest_divisor(shape.width, most)
    if not _cuts_well(shape.width, across):
        raise NotApplicable(f"width_tile {across} cuts a row of {shape.width} pixels badly")
    band = wish.row_band or _own_band(shape, deep)
    if shape.height % band:
        raise NotApplicable(f"row_band {band} does not divide {shape.height} rows")
    if wish.unroll_taps:
        raise NotApplicable("unroll_taps is no choice: the kernel columns are unrolled always")
    tail_channels = shape.tail_channels(deep)
    tail = wish.tail_lanes or largest_divisor(tail_channels, _TAIL)
    if tail_channels % tail:
        raise NotApplicable(f"tail_lanes {tail} does not divide {tail_channels} channels")
    words = 0
    if shape.step is DOT:
        words = wish.step_words or largest_divisor(shape.words, _WORDS)
        if shape.words % words:
            raise NotApplicable(f"step_words {words} does not divide {shape.words} words")
    elif wish.step_words:
        raise NotApplicable("step_words is no choice: the weight's layout says it")
    return ConvTiles(across, deep, band, step_words=words, tail_lanes=tail)


def neon_choices(shape: NeonShape, family: Family) -> list[ConvTiles]:
    """All sizes worth a measurement, in a fixed order; `choose_tiles` takes each as it stands.

    Bands much shorter than the one that is taken by itself only begin more often.
    """
    budget = int(family.binary_sums * _OVER_BUDGET)
    words = [d for d in divisors(shape.words) if d <= _MOST_WORDS] if shape.step is DOT else [0]
    return [
        ConvTiles(across, deep, band, step_words=count, tail_lanes=tail)
        for across in range(1, min(shape.width, _MOST_ACROSS) + 1)
        if _cuts_well(shape.width, across)
        for deep in divisors(shape.vectors)
        if across * deep <= budget
        for band in divisors(shape.height)
        if _own_band(shape, deep) <= band * _MOST_BANDS and band <= _own_band(shape, deep)
        for count in words
        for tail in _TAILS
        if shape.tail_channels(deep) % tail == 0
    ]


def _own_band(shape: NeonShape, deep: int) -> int:
    return band_height(shape.height, shape.channels // (deep * shape.step.lanes))


def _cuts_well(width: int, across: int) -> bool:
    """Whether tiles divide a row, or cut it into a few that are as even as they can be."""
    parts = -(-width // across)
    return width % across == 0 or (parts <= _MOST_PARTS and across == -(-width // parts))


def _block_lanes(schedule: Any, every: list[Any]) -> int:
    """L of the weight, the only tensor of rank 5 that comes from outside."""
    made = [schedule.get(block).writes[0].source for block in every]
    read = [region.source for block in every for region in schedule.get(block).reads]
    found = {
        int(b.shape[-1]) for b in read if len(b.shape) == 5 and not any(b.same_as(m) for m in made)
    }
    if len(found) != 1:
        raise NotApplicable("the weight is not blocked")
    return found.pop()


def neon_space(kernel: Kernel) -> list[ConvTiles]:
    """All tiles worth a measurement; `schedule_neon` applies each as it stands.

    Raises:
        OtherKind: the function holds no convolution for that rule.
        NotApplicable: the convolution is of another form.
    """
    return neon_choices(neon_shape(kernel.schedule, kernel.family), kernel.family)
