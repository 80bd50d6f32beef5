"""Binary convolutions whose data choose tables of counts, on x86 before VPOPCNTDQ.

    parallel over images, row blocks, blocks of output channels
      for each row, for each strip of it
        for each part of the sum that fits into bytes:
          for each tile of `width_tile` pixels of the strip
            for ky, kx, word, nibble, vector of weights, pixel:
              look the weights up in the pixel's table, add to bytes held in registers
            add the bytes to the sums of the strip, which lie on the stack
        the whole epilogue of the strip, tile by tile

`ops/nibble_counts.py` says what is looked up. A table costs three instructions to find and one to
load, and then serves every vector of output channels; so tiles are deep. Pixels of a tile would
share the loads of weights, but a part of the weights, at most 63 nibbles for each channel, meets a
whole strip while it lies in the first-level cache, so that one pixel with four vectors is as good.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm_insta.schedules.base import (
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    OtherKind,
    band_height,
    blocks,
    divisors,
    is_among,
    known_extent,
    largest_divisor,
    parallelise,
    rule_of,
)
from tvm_insta.schedules.generic.consumers import (
    depth,
    find_consumers,
    finish_consumers,
    fuse_consumers,
    schedule_consumers_apart,
)
from tvm_insta.schedules.generic.conv import fuse_epilogue, lanes_cross_groups, vectorise_tile

RULE = "insta_bconv_nibbles"

VECTORS = 4
"""Vectors of weights that lie side by side in a block, and that a table should serve."""

_WIDTHS = (64, 32, 16)  # bytes of a vector; a table has 16
_NIBBLES_OF_A_WORD = 8

# Sums of a strip, of two bytes; no more than the compiler leaves on the stack.
_SUM_BYTES, _STRIP_BYTES = 2, 1 << 13


@dataclass(frozen=True)
class NibbleShape:
    """What the tiles of a convolution have to divide.

    Attributes:
        height: output rows.
        width: output pixels of a row.
        lanes: output channels of a vector.
        vectors: vectors of output channels.
        nibbles: of a part of the sum, of one tap or of more.
    """

    height: int
    width: int
    lanes: int
    vectors: int
    nibbles: int

    def strip(self, tiles: ConvTiles) -> int:
        """Tiles of a row whose sums lie on the stack together."""
        tile = tiles.width_tile * tiles.out_tile * self.lanes * _SUM_BYTES
        return largest_divisor(self.width // tiles.width_tile, _STRIP_BYTES // tile)


def nibble_block(family: Family, out_channels: int) -> int:
    """Output channels of a block of the weight; 0 where no vector divides them."""
    for lanes in _WIDTHS:
        if lanes <= family.nibble_lanes and out_channels % lanes == 0:
            return lanes * largest_divisor(out_channels // lanes, VECTORS)
    return 0


def schedule_nibbles(kernel: Kernel) -> tuple[str, ConvTiles]:
    """Schedule such a convolution and everything fused with it.

    Returns:
        The rule's name and the tiles that were used; `out_tile` counts vectors of bytes.
    """
    shape = _shape(kernel)
    tiles = _choose_tiles(kernel.tiles, shape, kernel.family)
    consumers = find_consumers(kernel)
    schedule = kernel.schedule
    partial, conv, *behind = blocks(schedule)

    mine = [block for block in behind if not is_among(schedule, block, consumers.all)]
    tail, in_place = fuse_epilogue(kernel, conv, mine, consumers)
    batch, row, column, out, *parts = schedule.get_loops(conv)
    band, row = schedule.split(row, [None, tiles.row_band])
    strip, tile, column = schedule.split(column, [None, shape.strip(tiles), tiles.width_tile])
    block, vector, lane = schedule.split(out, [None, tiles.out_tile, shape.lanes])
    outer = [batch, band, block]
    schedule.reorder(*outer, row, strip, *parts, tile, column, vector, lane)

    complete = _tail_of_strip(schedule, tail, strip, tiles.width_tile)
    schedule.set_scope(conv, 0, "local")
    if in_place:
        channels = tiles.out_tile * shape.lanes
        fuse_consumers(kernel, consumers, complete, kernel.lanes, channels)
    else:
        schedule_consumers_apart(kernel, consumers)
    first = _look_up(schedule, partial, tile, shape)
    parallelise(schedule, outer)

    for output in tail:
        vectorise_tile(schedule, output, kernel.lanes)
    for loop in (column, vector):
        schedule.unroll(loop)
    schedule.vectorize(lane)
    schedule.decompose_reduction(partial, first)
    schedule.decompose_reduction(conv, parts[0])
    finish_consumers(kernel, consumers, strip)
    return RULE, tiles


def nibble_space(kernel: Kernel) -> list[ConvTiles]:
    """All tiles worth a measurement; `schedule_nibbles` applies each as it stands.

    Raises:
        OtherKind: the function holds no such convolution.
        NotApplicable: the convolution is of another form.
    """
    shape = _shape(kernel)
    return [
        ConvTiles(across, deep, band)
        for across, deep in _fitting(ConvTiles(), shape, kernel.family)
        for band in divisors(shape.height)
        if band <= band_height(shape.height, shape.vectors // deep)
    ]


def _shape(kernel: Kernel) -> NibbleShape:
    """Raises OtherKind or NotApplicable."""
    schedule = kernel.schedule
    every = blocks(schedule)
    if RULE not in [rule_of(schedule, block) for block in every]:
        raise OtherKind
    if len(every) < 2 or rule_of(schedule, every[1]) != RULE:
        raise NotApplicable("a block before the convolution")
    partial = every[0]
    _, row, column, out, *_ = schedule.get_loops(every[1])
    (weight,) = [r.source for r in schedule.get(partial).reads if len(r.source.shape) == 5]
    widths = [lanes for lanes in _WIDTHS if lanes <= kernel.family.nibble_lanes]
    lanes = next((lanes for lanes in widths if int(weight.shape[-1]) % lanes == 0), 0)
    if not lanes:
        raise NotApplicable(f"no vector divides blocks of {weight.shape[-1]} channels")
    if lanes_cross_groups(schedule, partial, lanes):
        raise NotApplicable("the channels of a vector read different groups")
    return NibbleShape(
        height=known_extent(schedule, row),
        width=known_extent(schedule, column),
        lanes=lanes,
        vectors=known_extent(schedule, out) // lanes,
        nibbles=known_extent(schedule, schedule.get_loops(partial)[-1]),
    )


def _tail_of_strip(schedule: Any, tail: list[Any], strip: Any, width_tile: int) -> Any:
    """The epilogue of a strip, tile by tile; returns the loop over the tiles."""
    first, *others = tail
    schedule.reverse_compute_at(first, strip, preserve_unit_loops=True)
    *units, pixels, channel = schedule.get_loops(first)[depth(schedule, first, strip) :]
    tile, pixel = schedule.split(pixels, [None, width_tile])
    schedule.reorder(tile, *units, pixel, channel)
    for output in others:
        schedule.reverse_compute_at(output, tile, preserve_unit_loops=True)
    return tile


def _look_up(schedule: Any, partial: Any, tile: Any, shape: NibbleShape) -> Any:
    """Sums of bytes of one tile at `tile`, in registers; returns the first loop of the sum."""
    schedule.compute_at(partial, tile, preserve_unit_loops=True)
    schedule.set_scope(partial, 0, "local")
    *_, column, _, _, _, _, out, ky, kx, piece = schedule.get_loops(partial)
    vector, lane = schedule.split(out, [None, shape.lanes])
    # Where a tap has whole words, a table is found by a shift by a constant. A vector of weights
    # meets the tables of all pixels, one after the other.
    word, nibble = schedule.split(piece, [None, largest_divisor(shape.nibbles, _NIBBLES_OF_A_WORD)])
    schedule.reorder(ky, kx, word, nibble, vector, column, lane)
    for loop in (nibble, vector, column):
        schedule.unroll(loop)
    schedule.vectorize(lane)
    return ky


def _choose_tiles(wish: ConvTiles, shape: NibbleShape, family: Family) -> ConvTiles:
    """Fill in the sizes that `wish` leaves open.

    Four vectors of one pixel, or as many as there are; two pixels for a single vector, so that one
    addition need not wait for the other.

    Raises:
        NotApplicable: a wish does not fit the convolution.
    """
    fitting = _fitting(wish, shape, family)
    others = replace(wish, width_tile=0, out_tile=0, row_band=0)
    if not fitting or others != ConvTiles():
        raise NotApplicable(
            f"{wish} does not divide {shape.width} pixels and {shape.vectors} vectors within "
            f"{family.accumulators} registers"
        )

    def cost(tile: tuple[int, int]) -> tuple[int, int]:
        across, deep = tile
        served = min(deep, VECTORS)
        return -served, abs(across * deep - max(served, 2))

    across, deep = min(fitting, key=cost)
    band = wish.row_band or band_height(shape.height, shape.vectors // deep)
    if shape.height % band:
        raise NotApplicable(f"row_band {band} does not divide {shape.height} rows")
    return ConvTiles(across, deep, band)


def _fitting(wish: ConvTiles, shape: NibbleShape, family: Family) -> list[tuple[int, int]]:
    """Pixels and vectors of a tile whose sums fit into the registers."""
    return [
        (across, deep)
        for across in divisors(shape.width)
        for deep in divisors(shape.vectors)
        if across * deep <= family.accumulators
        and wish.width_tile in (0, across)
        and wish.out_tile in (0, deep)
    ]
