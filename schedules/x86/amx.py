"""Binary convolutions on AMX: products of +-1 bytes, 16 pixels x 16 channels x 64 bytes at a time.

    parallel over rows of the padded images
      bits -> bytes, +1 or -1, and 0 in the border
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

TE cannot say any of this. The rule schedules what surrounds the sum, the epilogue above all, and
`signs_code` then writes the rest.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir
from tvm.ir import IRModule

from tvm_insta.schedules.base import (
    ConvTiles,
    Kernel,
    NotApplicable,
    OtherKind,
    blocks,
    is_among,
    known_extent,
    name_of,
    parallelise,
    rule_of,
)
from tvm_insta.schedules.generic.consumers import (
    Consumers,
    depth,
    find_consumers,
    schedule_consumers_apart,
)
from tvm_insta.schedules.generic.conv import fuse_epilogue
from tvm_insta.schedules.generic.pack import WORD, pack_alone, write_border
from tvm_insta.schedules.x86.amx_code import write_tiles
from tvm_insta.schedules.x86.amx_shape import CHANNELS, Geometry
from tvm_insta.schedules.x86.amx_tiles import TiledConvolution, amx_choices, choose_tiles

RULE = "insta_bconv_signs"

NEEDS = "tvm_insta.needs"
"""Attribute of a kernel: features of the CPU, in LLVM's names, that it uses by name; see
`codegen.needs`, which reads it."""


def schedule_amx(kernel: Kernel) -> tuple[str, ConvTiles]:
    """Schedule `insta.bitserial_conv2d_signs` and everything fused with it.

    Returns:
        The rule's name and the tiles that were used: `out_tile` counts vectors of 16 channels,
        `row_band` the rows of a task, `group_rows` those of a group; `width_tile` is how many
        pixels of the epilogue are unrolled; `expand_ahead` is for weights that are bits.
    """
    at, found = _find(kernel)
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
        direct=direct,
        ahead=tiles.expand_ahead,
    )
    function = function.with_attr(NEEDS, ["amx-int8", "amx-tile"])
    kernel.schedule = s_tir.Schedule(IRModule({"main": function}))
    return RULE, tiles


def amx_space(kernel: Kernel) -> list[ConvTiles]:
    """All sizes worth a measurement; `schedule_amx` applies each as it stands.

    Raises:
        NotApplicable: the function holds no such convolution, or the target has no tiles.
    """
    return amx_choices(_find(kernel)[1])


def _find(kernel: Kernel) -> tuple[int, TiledConvolution]:
    """Position of the convolution among a function's blocks, and what it is.

    Raises:
        NotApplicable: there is none, it is of another form, or the target has no tiles.
    """
    schedule, every = kernel.schedule, blocks(kernel.schedule)
    found = [at for at, block in enumerate(every) if rule_of(schedule, block) == RULE]
    if not found:
        raise OtherKind
    if not kernel.family.amx_tiles:
        raise NotApplicable("the target has no AMX tiles of bytes with AVX-512 BW")
    if len(found) > 1:
        raise NotApplicable(f"{len(found)} convolution blocks")
    (at,) = found
    if [name_of(schedule, block) for block in every[:at]] != ["bconv_signs"]:
        raise NotApplicable("a block before the convolution")
    weight = next(r.source for r in schedule.get(every[at]).reads if len(r.source.shape) == 5)
    shape = _geometry(schedule, every[at], every[0], weight)
    bits, bare = str(weight.dtype) != "int8", at == len(every) - 1
    return at, TiledConvolution(shape, bits, bare)


def _geometry(schedule: Any, conv: Any, signs: Any, weight: Any) -> Geometry:
    """The shape of the convolution, from its block and that of its image."""
    notes = schedule.get(conv).annotations
    top, left, bottom, right = (int(v) for v in notes["padding"])
    _, padded_h, padded_w, _ = schedule.get(signs).writes[0].source.shape
    stride_y, stride_x = (int(v) for v in notes["strides"])
    return Geometry(
        (int(padded_h) - top - bottom, int(padded_w) - left - right),
        (top, left, bottom, right),
        (stride_y, stride_x),
        (int(weight.shape[1]), int(notes["kernel_width"])),
        int(notes["in_channels"]),
        int(weight.shape[0]) * CHANNELS,
    )


def _fuse_consumers(kernel: Kernel, consumers: Consumers, group: Any, tiles: ConvTiles) -> Any:
    """Compute the consumers behind the epilogue of a group; returns where sums of rows begin."""
    schedule = kernel.schedule
    pack = consumers.pack
    if pack is not None:
        if tiles.out_tile * CHANNELS % WORD == 0 and pack.flags is None:
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
