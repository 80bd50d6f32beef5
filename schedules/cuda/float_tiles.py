"""Float convolutions and dense layers, with tiles in shared memory.

A block of threads computes `rows * columns * pixels` pixels of an image for `groups * channels`
output channels. A thread adds up the products of each of its outputs in their defined order, kernel
rows, columns, then input channels; what it multiplies is loaded into shared memory by all threads,
at once where it fits, or else tap by tap, `depth` input channels at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx

from tvm_insta.schedules.base import (
    NotApplicable,
    blocks,
    divisors,
    extent,
    is_output,
    is_reduction,
    largest_divisor,
    name_of,
    rule_of,
)
from tvm_insta.schedules.cuda.blocks import SHARED_BYTES, outputs
from tvm_insta.schedules.cuda.sharing import ImageTile, load_together, share_out

_MARK = "insta_fconv"
_PIXELS, _CHANNELS = 4, 4  # of a thread
_COLUMNS = 8  # threads of a block along a row
_FEWEST_THREADS, _MOST_THREADS = 96, 256
_DEPTHS = (64, 32, 16)
_BANKS = 32  # of shared memory, each a word wide


@dataclass(frozen=True)
class FloatTile(ImageTile):
    """How a float convolution is shared out.

    Attributes:
        depth: input channels that are loaded at a time; 0 loads all taps at once.
    """

    depth: int


@dataclass(frozen=True)
class FloatShape:
    """Sizes of a float convolution.

    Attributes:
        image: output rows and columns.
        channels: output channels.
        block: output channels that are neighbours in the weights.
        kernel: rows and columns.
        depth: input channels of a group.
        stride: of rows and columns.
    """

    image: tuple[int, int]
    channels: int
    block: int
    kernel: tuple[int, int]
    depth: int
    stride: tuple[int, int]

    def shared_bytes(self, tile: FloatTile) -> int:
        """Bytes of shared memory that a tile needs."""
        outer = tile.rows, tile.columns * tile.pixels
        taps = (1, 1) if tile.depth else self.kernel
        depth = tile.depth or self.depth
        rows, columns = (
            (count - 1) * stride + tap
            for count, stride, tap in zip(outer, self.stride, taps, strict=True)
        )
        blocks = -(-tile.groups * tile.channels // self.block)
        weights = blocks * (taps[0] * taps[1] * depth * self.block + _BANKS)
        return 4 * (depth * rows * columns + weights)


def float_space(shape: FloatShape) -> list[FloatTile]:
    """The tiles worth a measurement, the most promising first; they divide the shape's sizes."""
    height, width = shape.image
    depths = [0, *(d for d in _DEPTHS if shape.depth % d == 0 and d < shape.depth)]
    found = []
    for pixels in _at_most(width, _PIXELS):
        columns = largest_divisor(width // pixels, _COLUMNS)
        for channels in _at_most(shape.block, _CHANNELS):
            most = _MOST_THREADS // 2 if height * width == 1 else 16
            groups = _groups(shape, channels, most)
            for rows in divisors(height):
                found += [
                    FloatTile(rows, columns, pixels, groups, channels, depth) for depth in depths
                ]
    fitting = [
        tile
        for tile in found
        if tile.threads <= _MOST_THREADS and shape.shared_bytes(tile) <= SHARED_BYTES
    ]
    return sorted(fitting, key=lambda tile: _unpromising(shape, tile))


def _unpromising(shape: FloatShape, tile: FloatTile) -> tuple[float, ...]:
    few = max(0, _FEWEST_THREADS - tile.threads) / _FEWEST_THREADS
    loads = 1 / tile.pixels + 1 / tile.channels  # for each product
    point = shape.image == (1, 1)  # few sums in all: a thread for each
    return (round(4 * few), tile.channels if point else loads, bool(tile.depth), tile.threads)


def _groups(shape: FloatShape, channels: int, most: int) -> int:
    """Threads along the channels, so that a block of threads has whole blocks of the weights."""
    possible = [
        groups
        for groups in divisors(shape.channels // channels)
        if groups <= most
        and (groups * channels % shape.block == 0 or shape.block % (groups * channels) == 0)
    ]
    return max(possible)


def _at_most(size: int, most: int) -> list[int]:
    """The divisors of a size up to a limit, the largest first."""
    return [each for each in reversed(divisors(size)) if each <= most]


def schedule_float(schedule: s_tir.Schedule, tile: FloatTile | None = None) -> None:
    """A float convolution in blocked weights, without groups.

    Raises:
        NotApplicable: the function is something else.
    """
    sums, padding = _begin(schedule)
    weight = _weight_of(schedule, sums)
    if is_output(schedule, sums):  # nothing behind: the output is read from registers
        output = schedule.cache_write(sums, 0, "local")
    else:
        (output,) = outputs(schedule)
    tile = tile or _first(_shape(schedule, sums))
    shared = share_out(schedule, output, tile)
    weights = schedule.cache_read(sums, weight, "shared")
    if padding is None:
        padding = schedule.cache_read(sums, 1 - weight, "shared")
    else:
        schedule.set_scope(padding, 0, "shared")
    schedule.compute_at(sums, shared.thread, preserve_unit_loops=True)
    schedule.set_scope(sums, 0, "local")
    *own, ky, kx, depth = list(schedule.get_loops(sums))[-7:]
    schedule.reorder(ky, kx, depth, *own)
    at = shared.block
    if tile.depth:
        at, _ = schedule.split(depth, factors=[None, tile.depth])
    for copy in (padding, weights):
        schedule.compute_at(copy, at, preserve_unit_loops=True)
        load_together(schedule, copy, tile)
    # So that the threads of different channels read different banks.
    schedule.storage_align(weights, 0, 0, _BANKS, min(_block(schedule, weights), _BANKS // 2))
    begun = schedule.decompose_reduction(sums, ky)
    # Sums stay in registers only where every index into them is a constant.
    for loop in (shared.pixel, shared.lane, own[2], own[3], *list(schedule.get_loops(begun))[-2:]):
        schedule.unroll(loop)


def float_tiles(schedule: s_tir.Schedule) -> list[FloatTile]:
    """The tiles worth a measurement, of which the first is taken where nothing is measured."""
    sums, _ = _begin(schedule)
    return float_space(_shape(schedule, sums))


def _begin(schedule: s_tir.Schedule) -> tuple[Any, Any]:
    """The sums and the padding in front of them or None, all else inlined."""
    marked = [block for block in blocks(schedule) if rule_of(schedule, block) == _MARK]
    if len(marked) != 1 or len(outputs(schedule)) != 1:
        raise NotApplicable
    (sums,) = marked
    pads = [block for block in schedule.get_producers(sums) if name_of(schedule, block) == "pad"]
    for block in blocks(schedule):
        mine = name_of(schedule, block) == "pad" or is_output(schedule, block)
        if not mine and not is_reduction(schedule, block):
            schedule.compute_inline(block)
    if len(blocks(schedule)) != len(pads) + (1 if is_output(schedule, sums) else 2):
        raise NotApplicable
    return sums, pads[0] if pads else None


def _weight_of(schedule: s_tir.Schedule, sums: Any) -> int:
    """Which of the tensors that the sums read is the weight: the one of five dimensions."""
    ranks = [len(region.source.shape) for region in schedule.get(sums).reads]
    if sorted(ranks) != [4, 5]:
        raise NotApplicable
    return ranks.index(5)


def _block(schedule: s_tir.Schedule, weights: Any) -> int:
    """Output channels that are neighbours in a weight."""
    return int(schedule.get(weights).writes[0].source.shape[-1])


def _first(shape: FloatShape) -> FloatTile:
    space = float_space(shape)
    if not space:
        raise NotApplicable
    return space[0]


def _shape(schedule: s_tir.Schedule, sums: Any) -> FloatShape:
    """Raises NotApplicable where a size is not known or the loops are not those of an image."""
    block = schedule.get(sums)
    kinds = [axis.iter_type for axis in block.iter_vars]
    if kinds != [tirx.IterVar.DataPar] * 4 + [tirx.IterVar.CommReduce] * 3:
        raise NotApplicable
    weight = block.reads[_weight_of(schedule, sums)].source
    data = block.reads[1 - _weight_of(schedule, sums)].source
    sizes = [extent(schedule, loop) for loop in schedule.get_loops(sums)][1:]
    known = [size for size in sizes if size is not None]
    if len(known) != 6 or int(data.shape[3]) != known[5]:
        raise NotApplicable
    height, width, channels, rows, columns, depth = known
    down, right = (
        -(-(int(size) - taps) // (count - 1)) if count > 1 else 1
        for size, taps, count in zip(data.shape[1:3], (rows, columns), (height, width), strict=True)
    )
    return FloatShape(
        image=(height, width),
        channels=channels,
        block=int(weight.shape[-1]),
        kernel=(rows, columns),
        depth=depth,
        stride=(down, right),
    )
