"""Binary convolutions on NEON: sums in bytes, in pairs of bytes, or by dot product.

    parallel over images, blocks of output channels, row blocks
      for each row, for each tile of `width_tile` pixels
        for each kernel row and unit of up to 4 words:
          the unit of every pixel that the tile meets, fetched as one vector
          for each piece of it and each kernel column: broadcast, xor, count, add
            to `width_tile` x `out_tile` vectors of sums, held in registers
        (byte sums go to the stack after at most 31 counts, and are added up here)
        the whole epilogue of the tile, one pass

A vector holds neighbouring output channels of one pixel: sixteen with sums in bytes, which any
64-bit Arm core does best; eight with pairs of bytes, for the sixteen registers of armv7; four where
a dot product adds the counts of four bytes. Each takes three instructions for 128 products. The
rest is broadcasts and loads: a broadcast piece meets all kernel columns, so that P pixels need
P + KW - 1 of them in place of P * KW, and each weight vector meets P pixels.

The tile is 4 pixels by 4 vectors where the channels allow it. A row that 4 does not divide is cut
unevenly (7 = 4 + 3) and each part has code of its own, which is better than tiles of 7 pixels by 2
vectors: those need twice the broadcasts, and more registers for the fetched units.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir
from tvm.ir import IRModule

from tvm_insta.schedules.arm.inner_loop import (
    BYTES,
    DOT,
    PAIRS,
    STEPS,
    Step,
    end_steps,
    read_units,
    write_stages,
)
from tvm_insta.schedules.arm.neon_tiles import choose_tiles, neon_shape
from tvm_insta.schedules.base import (
    BinarySum,
    Blocking,
    ConvTiles,
    Family,
    Kernel,
    blocks,
    is_among,
    known_extent,
    largest_divisor,
    parallelise,
)
from tvm_insta.schedules.generic.consumers import (
    find_consumers,
    finish_consumers,
    fuse_consumers,
    schedule_consumers_apart,
)
from tvm_insta.schedules.generic.conv import fuse_epilogue, vectorise_tile

_STEPS = {BinarySum.BYTES: BYTES, BinarySum.PAIRS: PAIRS, BinarySum.DOT: DOT}


def blocking(family: Family, out_channels: int, bits: int) -> Blocking | None:
    """The layout of a binary weight without groups on Arm; None for plain vectors of words.

    Args:
        family: of the target.
        out_channels: output channels.
        bits: bits of an activation.
    """
    dots = family.binary is BinarySum.DOT
    step = _STEPS.get(BinarySum.BYTES if dots and bits > 1 else family.binary)
    if step is None or out_channels % step.lanes or (bits > 1 and step is PAIRS):
        return None
    vectors = largest_divisor(out_channels // step.lanes, 4)
    return Blocking(step.piece, vectors * step.lanes)


def schedule_neon(kernel: Kernel) -> tuple[str, ConvTiles]:
    """Schedule a binary convolution with such a weight, and everything fused with it.

    Returns:
        The rule's name and the tiles that were used.
    """
    shape = neon_shape(kernel.schedule, kernel.family)
    tiles = choose_tiles(kernel.tiles, shape, kernel.family)
    consumers = find_consumers(kernel)
    schedule, step = kernel.schedule, shape.step
    every = blocks(schedule)
    conv, before = every[shape.at], every[: shape.at]

    behind = [b for b in every[shape.at + 1 :] if not is_among(schedule, b, consumers.all)]
    tail, in_place = fuse_epilogue(kernel, conv, behind, consumers)
    batch, row, column, out, *summed = schedule.get_loops(conv)
    band, row = schedule.split(row, [None, tiles.row_band])
    tile, column = _cut(schedule, column, shape.width, tiles.width_tile)
    block, group, lane = schedule.split(out, [None, tiles.out_tile, step.lanes])
    outer = [batch, block, band, row, tile]
    inner: list[Any] = []
    if step is not BYTES:
        summed, inner = _order_sums(schedule, step, summed, tiles.step_words)
    if step is BYTES:
        schedule.reorder(*outer, group, column, *summed, lane)
    else:
        schedule.reorder(*outer, *summed, *inner, group, column, lane)
    # Bytes lie on the stack, so that their channels can be a loop: short code, few registers.
    complete = group if step is BYTES else tile
    for output in tail:
        schedule.reverse_compute_at(output, complete, preserve_unit_loops=True)
    schedule.set_scope(conv, 0, "local")
    if in_place and shape.width % tiles.width_tile == 0:
        fuse_consumers(kernel, consumers, tile, step.lanes, tiles.out_tile * step.lanes, complete)
    else:
        schedule_consumers_apart(kernel, consumers)
    if step is BYTES:
        pieces, partial = before
        first = _stack_bytes(schedule, pieces, partial, tile, len(summed))
    else:
        pieces = before[0] if before else schedule.cache_read(conv, 0, "local")
        _fetch(schedule, pieces, summed[1])
    parallelise(schedule, outer[:3])
    for output in tail:
        vectorise_tile(schedule, output, tiles.tail_lanes, vectors_first=True)
        if step is PAIRS:
            vector, *_ = schedule.get_loops(output)[-5:]
            schedule.annotate(vector, STEPS, True)
    for loop in (*inner, column) if step is BYTES else (*inner, column, group):
        schedule.unroll(loop)
    schedule.vectorize(lane)
    if step is BYTES:
        schedule.decompose_reduction(partial, first)
    schedule.decompose_reduction(conv, summed[0])
    finish_consumers(kernel, consumers, tile)
    name = "bconv_partial_update" if step is BYTES else "bconv_update"
    function = end_steps(read_units(write_stages(kernel.schedule.mod["main"], name, step)))
    kernel.schedule = s_tir.Schedule(IRModule({"main": function}))
    return shape.rule, tiles


def _cut(schedule: Any, column: Any, width: int, tile: int) -> list[Any]:
    """The loop over the tiles of a row, unrolled if they are uneven, and that over the pixels."""
    part, pixel = schedule.split(column, [None, tile])
    if width % tile:
        schedule.unroll(part)
    return [part, pixel]


def _order_sums(
    schedule: Any, step: Step, summed: list[Any], words: int
) -> tuple[list[Any], list[Any]]:
    """The reduction loops of a sum in one step: (those that stay loops, those to unroll)."""
    if step is DOT:
        row, column, word = summed
        unit, word = schedule.split(word, [None, words])
        return [row, unit], [word, column]
    row, unit, piece, column = summed
    # On armv7 the pieces stay a loop: LLVM overfills the sixteen registers in longer code, and a
    # piece is broadcast as it is loaded.
    return [row, unit, piece], [column]


def _stack_bytes(schedule: Any, pieces: Any, partial: Any, tile: Any, apart: int) -> Any:
    """The byte sums of one tile, `apart` axes of them; returns the first loop of the sum."""
    stacked = schedule.cache_write(partial, 0, "local")
    schedule.compute_at(stacked, tile, preserve_unit_loops=True)
    schedule.set_scope(stacked, 0, "local")
    column, *steps, out = schedule.get_loops(stacked)[-2 - apart :]
    group, lane = schedule.split(out, [None, BYTES.lanes])
    schedule.reorder(*steps, column, group, lane)
    schedule.unroll(column)
    schedule.unroll(group)
    schedule.vectorize(lane)

    schedule.compute_at(partial, steps[-1], preserve_unit_loops=True)
    loops = schedule.get_loops(partial)[-len(schedule.get(partial).iter_vars) :]
    _, _, column, *_, out = loops[: 4 + apart]
    summed = loops[4 + apart :]
    group, lane = schedule.split(out, [None, BYTES.lanes])
    schedule.reorder(*summed, group, column, lane)
    for loop in (*summed, group, column):
        schedule.unroll(loop)
    schedule.vectorize(lane)
    _fetch(schedule, pieces, steps[-1])
    return summed[0]


def _fetch(schedule: Any, pieces: Any, loop: Any) -> None:
    """Fetch the units of a tile's pixels into registers."""
    schedule.compute_at(pieces, loop, preserve_unit_loops=True)
    schedule.set_scope(pieces, 0, "local")
    *pixels, last = schedule.get_loops(pieces)[-len(schedule.get(pieces).iter_vars) :]
    for each in pixels:
        schedule.unroll(each)
    if known_extent(schedule, last) > 1:
        schedule.vectorize(last)
