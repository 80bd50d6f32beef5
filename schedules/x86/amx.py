"""Convolutions on AMX: products of tiles, 16 pixels x 16 channels x 64 bytes at a time.

Binary layers are products of +-1 bytes (`insta.bitserial_conv2d_signs`), float layers products of
8-bit integers or of bfloat16 numbers (`insta.conv2d_tiles`):

    parallel over rows of the padded images, where they are not bytes already
      bits -> bytes, +1 or -1, and 0 in the border; or float32 -> codes
    parallel over images, blocks of output channels, row blocks
      configure the tiles, which are state of the thread
      the weights of the block, if they are bits: bits -> bytes
      for each group of rows
        for each 2 x 2 tiles of sums (3 x 1 where the channels are no multiple of 32)
          for ky, unit: load 2 tiles of pixels, 2 of weights; 4 products
        the whole epilogue of the group, with the sums in the first-level cache
      release the tiles

A product takes 16 cycles, whatever rows it has. So the rows of a tile are neighbouring outputs of
the group, end to end: the last pixel of a row is followed by KW - 1 sums that mean nothing, for the
padded image is wider than the output, and then by the first pixel of the next row. The last tile is
moved back so that it ends with the last pixel; what it computes again has the same value. Where a
stride keeps rows apart, a group is one row.

Weights are bytes that tiles load as they are, or bits in the same order: an eighth of the memory,
and in deep layers an eighth of what has to come from there. To expand one tile takes 16 stores, and
each task uses it for all its pixels. Or it is expanded shortly ahead of its use (`expand_ahead`),
for every 4 tiles of pixels anew, into a ring that stays in the first-level cache; 4 x 1 tiles of
sums then take the place of 2 x 2.

Where the sums are the result, tiles are stored there (`rows_stored_directly`), else to a buffer of
the task that the epilogue reads.

Of float layers the taps of a kernel row are as many numbers as they are, not whole words: a tile
loads the pixels of its rows, which overlap, and what it loads behind the window meets weights of 0.

TE cannot say any of this. The rule schedules what surrounds the sum, the epilogue above all, and
`amx_code` then writes the rest.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir
from tvm.ir import IRModule

from tvm_insta.schedules.base import (
    ConvTiles,
    Kernel,
    blocks,
    is_among,
    known_extent,
    parallelise,
)
from tvm_insta.schedules.generic.consumers import (
    Consumers,
    depth,
    find_consumers,
    schedule_consumers_apart,
)
from tvm_insta.schedules.generic.conv import fuse_epilogue
from tvm_insta.schedules.generic.pack import pack_alone, write_border
from tvm_insta.schedules.x86.amx_code import write_tiles
from tvm_insta.schedules.x86.amx_find import find_convolution
from tvm_insta.schedules.x86.amx_shape import CHANNELS
from tvm_insta.schedules.x86.amx_tiles import amx_choices, choose_tiles

NEEDS = "tvm_insta.needs"
"""Attribute of a kernel: features of the CPU, in LLVM's names, that it uses by name; see
`codegen.needs`, which reads it."""


def schedule_amx(kernel: Kernel) -> tuple[str, ConvTiles]:
    """Schedule an operator for tiles and everything fused with it.

    Returns:
        The rule's name and the tiles that were used: `out_tile` counts vectors of 16 channels,
        `row_band` the rows of a task, `group_rows` those of a group; `width_tile` is how many
        pixels of the epilogue are unrolled; `expand_ahead` is for weights that are bits.
    """
    at, form, product, found, given = find_convolution(kernel)
    consumers = find_consumers(kernel)
    schedule = kernel.schedule
    every = blocks(schedule)
    conv = every[at]
    tiles = choose_tiles(kernel.tiles, found)
    rows, direct = found.rows(tiles), found.direct

    behind = [b for b in every[at + 1 :] if not is_among(schedule, b, consumers.all)]
    tail, in_place = ([], False) if direct else fuse_epilogue(kernel, conv, behind, consumers)
    batch, row, column, out, *summed = schedule.get_loops(conv)
    band, group, row = schedule.split(row, [None, tiles.row_band // rows, rows])
    block, out = schedule.split(out, [None, tiles.out_tile * CHANNELS])
    schedule.reorder(batch, block, band, group, row, column, out, *summed)
    for output in tail:
        schedule.reverse_compute_at(output, group, preserve_unit_loops=True)
    if not direct:
        schedule.set_scope(conv, 0, "local")
    first = None
    if in_place:
        first = _fuse_consumers(kernel, consumers, group, tiles)
    else:
        schedule_consumers_apart(kernel, consumers)
    parallelise(schedule, [batch, block, band])
    for output in tail:
        _vectorise(schedule, output, group, tiles.width_tile)
    if consumers.rows is not None:
        schedule.decompose_reduction(consumers.rows, first)
    if consumers.pack is not None:
        write_border(kernel, consumers.pack)
    function = write_tiles(
        kernel.schedule.mod["main"],
        found.shape,
        rows,
        tiles.out_tile,
        form=form,
        product=product,
        direct=direct,
        ahead=tiles.expand_ahead,
        given=given,
    )
    function = function.with_attr(NEEDS, [product.feature, "amx-tile"])
    kernel.schedule = s_tir.Schedule(IRModule({"main": function}))
    return form.rule, tiles


def amx_space(kernel: Kernel) -> list[ConvTiles]:
    """All sizes worth a measurement; `schedule_amx` applies each as it stands.

    Raises:
        NotApplicable: the function holds no such convolution, or the target has no tiles.
    """
    return amx_choices(find_convolution(kernel).conv)


def _fuse_consumers(kernel: Kernel, consumers: Consumers, group: Any, tiles: ConvTiles) -> Any:
    """Compute the consumers behind the epilogue of a group; returns where sums of rows begin."""
    schedule = kernel.schedule
    pack = consumers.pack
    if pack is not None:
        if tiles.out_tile * CHANNELS % pack.lanes == 0 and pack.flags is None:
            schedule.reverse_compute_at(pack.words, group, preserve_unit_loops=True)
        else:
            pack_alone(kernel, pack)
    if consumers.rows is None:
        return None
    rows = consumers.rows
    schedule.reverse_compute_at(rows, group, preserve_unit_loops=True)
    *outer, channel, column = schedule.get_loops(rows)[depth(schedule, rows, group) :]
    vector, lane = schedule.split(channel, [None, CHANNELS])
    column, pixel = schedule.split(column, [None, tiles.width_tile])
    schedule.reorder(*outer, column, pixel, vector, lane)
    schedule.unroll(pixel)
    schedule.unroll(vector)
    schedule.vectorize(lane)
    return column


def _vectorise(schedule: Any, output: Any, group: Any, across: int) -> None:
    """The epilogue of a group: some pixels and all vectors unrolled, channels in lanes."""
    *_, column, channel = schedule.get_loops(output)[depth(schedule, output, group) :]
    if known_extent(schedule, column) % across == 0:
        _, pixel = schedule.split(column, [None, across])
        schedule.unroll(pixel)
    vector, lane = schedule.split(channel, [None, CHANNELS])
    schedule.unroll(vector)
    schedule.vectorize(lane)
