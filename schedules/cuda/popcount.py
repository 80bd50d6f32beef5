"""Binary convolutions by XOR and popcount, their tiles in shared memory, everything else fused.

A block of threads computes `rows * columns` pixels of one image for `channels` output channels. It
loads the words of the pixels, halo included, and of the weights once into shared memory. A thread
holds the sums of `pixels` neighbouring pixels for one group of channels in registers, and applies
what is fused behind them (border table, scale, residual) where it writes them. The sums are of
integers, so their order is free.
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
    largest_divisor,
    rule_of,
)
from tvm_insta.schedules.cuda.blocks import (
    SHARED_BYTES,
    inline_all,
    outputs,
)
from tvm_insta.schedules.cuda.sharing import ImageTile, load_together, share_out

_MARKS = ("insta_bconv",)
_PIXELS = 4  # of a thread
_GROUPS = 8  # of channels, of a block
_COLUMNS = 8  # threads of a block along a row
_FEWEST_THREADS, _ENOUGH_THREADS, _MOST_THREADS = 96, 256, 512  # of a block


@dataclass(frozen=True)
class PopcountTile(ImageTile):
    """How a binary convolution is shared out."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a convolution.

    Attributes:
        height, width, channels: of the output.
        block: output channels that are neighbours in the weights.
        kernel: rows and columns.
        words: of a pixel.
        stride: of rows and columns.
    """

    height: int
    width: int
    channels: int
    block: int
    kernel: tuple[int, int]
    words: int
    stride: int

    def shared_bytes(self, tile: PopcountTile) -> int:
        """Bytes of shared memory that a tile needs."""
        kernel_rows, kernel_columns = self.kernel
        rows = (tile.rows - 1) * self.stride + kernel_rows
        columns = (tile.columns * tile.pixels - 1) * self.stride + kernel_columns
        weights = kernel_rows * kernel_columns * tile.groups * tile.channels
        return 4 * self.words * (rows * columns + weights)


def popcount_space(shape: Shape) -> list[PopcountTile]:
    """The tiles worth a measurement, the most promising first; they divide the shape's sizes.

    So no thread has to look whether it is inside.
    """
    groups = [
        count for count in reversed(divisors(shape.channels // shape.block)) if count <= _GROUPS
    ]
    found = [
        PopcountTile(rows, columns, pixels, count, shape.block)
        for pixels in reversed(divisors(shape.width))
        if pixels <= _PIXELS
        for columns in [largest_divisor(shape.width // pixels, _COLUMNS)]
        for count in groups
        for rows in divisors(shape.height)
    ]
    fitting = [
        tile
        for tile in found
        if tile.threads <= _MOST_THREADS and shape.shared_bytes(tile) <= SHARED_BYTES
    ]
    return sorted(fitting, key=_unpromising)


def _unpromising(tile: PopcountTile) -> tuple[int, ...]:
    """Most sums of a thread, then most channels, then the fewest rows that make enough threads."""
    far = max(0, _FEWEST_THREADS - tile.threads) + max(0, tile.threads - _ENOUGH_THREADS)
    return (-tile.pixels, -tile.groups, far, tile.rows)


def choose_tile(shape: Shape) -> PopcountTile:
    """The tile that is taken where nothing is measured.

    Raises:
        NotApplicable: the smallest does not fit shared memory.
    """
    space = popcount_space(shape)
    if not space:
        raise NotApplicable
    return space[0]


def popcount_tiles(schedule: s_tir.Schedule) -> list[PopcountTile]:
    """The tiles worth a measurement, of which the first is taken where nothing is measured."""
    return popcount_space(_shape(schedule, _begin(schedule)))


def schedule_popcount(schedule: s_tir.Schedule, tile: PopcountTile | None = None) -> None:
    """A binary convolution of images in blocked weights, without groups.

    Raises:
        NotApplicable: the function is something else.
    """
    sums = _begin(schedule)
    if len(blocks(schedule)) == 1:  # nothing behind the sums: the output is read from registers
        output = schedule.cache_write(sums, 0, "local")
    elif len(blocks(schedule)) == 2:
        (output,) = outputs(schedule)
    else:
        raise NotApplicable
    tile = tile or choose_tile(_shape(schedule, sums))
    shared = share_out(schedule, output, tile)
    pixels, weights = (schedule.cache_read(sums, index, "shared") for index in (0, 1))
    schedule.compute_at(sums, shared.thread, preserve_unit_loops=True)
    schedule.set_scope(sums, 0, "local")
    for copy in (pixels, weights):
        schedule.compute_at(copy, shared.block, preserve_unit_loops=True)
        load_together(schedule, copy, tile)
    loops = list(schedule.get_loops(sums))[-7:]
    schedule.reorder(*loops[4:], *loops[:4])
    start = schedule.decompose_reduction(sums, loops[4])
    # Sums stay in registers only where every index into them is a constant.
    for loop in (
        shared.pixel,
        shared.lane,
        loops[2],
        loops[3],
        *list(schedule.get_loops(start))[-2:],
    ):
        schedule.unroll(loop)


def _begin(schedule: s_tir.Schedule) -> Any:
    """The sums, all else inlined."""
    marked = [block for block in blocks(schedule) if rule_of(schedule, block) in _MARKS]
    if len(marked) != 1 or len(outputs(schedule)) != 1:
        raise NotApplicable
    inline_all(schedule)
    return marked[0]


def _shape(schedule: s_tir.Schedule, sums: Any) -> Shape:
    """Raises NotApplicable where a size is not known or the loops are not those of an image."""
    block = schedule.get(sums)
    kinds = [axis.iter_type for axis in block.iter_vars]
    if kinds != [tirx.IterVar.DataPar] * 4 + [tirx.IterVar.CommReduce] * 3:
        raise NotApplicable
    if [len(region.source.shape) for region in block.reads] != [4, 5]:
        raise NotApplicable
    sizes = [extent(schedule, loop) for loop in schedule.get_loops(sums)][1:]
    known = [size for size in sizes if size is not None]
    if len(known) != 6:
        raise NotApplicable
    height, width, channels, rows, columns, words = known
    lanes = int(block.reads[1].source.shape[-1])
    padded = int(block.reads[0].source.shape[1])
    stride = (padded - rows) // (height - 1) if height > 1 else 1
    return Shape(height, width, channels, lanes, (rows, columns), words, stride)
