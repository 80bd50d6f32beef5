"""The convolution rule: binary ("insta_bconv") and float ("insta_fconv"), with their epilogue.

A blocked convolution holds [pad], the reduction over [N, OH, OW, O], and element-wise blocks of the
same shape behind it. The rule makes one loop nest of them:

    parallel over images, blocks of output channels, bands of rows
      for each row, for each tile of `width_tile` pixels
        sums of width_tile x out_tile vectors, held in registers:
          for ky, kx, [plane], word (or channel): multiply-add or xor, popcount, add
        the whole epilogue of the tile, one pass

Each vector holds L neighbouring output channels, L the last dimension of the blocked weight. One
word of data is broadcast to all lanes and meets `out_tile` weight vectors; each weight vector meets
`width_tile` pixels. No sum is split, so the order of a float sum stays ky, kx, c.

The tile loop is inside the band and the output channels are outside it, so that the weights of one
block (out_tile * L channels, 18 KB in the largest layer of ResNet-18) stay in the first-level cache
while the band passes by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.s_tir import Schedule, ScheduleError

from .common import (
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    band_height,
    blocks,
    divisors,
    elementwise_pass,
    extent,
    is_output,
    known_extent,
    largest_divisor,
    name_of,
    parallelise,
    reads_in_place,
    rule_of,
    vectorise_last,
)

RULES = ("insta_bconv", "insta_fconv")

# Rows of a band where the padded image is computed per band: neighbouring bands share KH - 1 padded
# rows, which both compute.
_PADDED_BAND = 16


@dataclass(frozen=True)
class ConvolutionShape:
    """What the tiles of a convolution have to divide.

    Attributes:
        rule: "insta_bconv" or "insta_fconv".
        at: position of its block in the function; the blocks before it are padding.
        height: output rows.
        width: output pixels of a row.
        out_blocks: vectors of `lanes` output channels.
        lanes: L of the blocked weight.
    """

    rule: str
    at: int
    height: int
    width: int
    out_blocks: int
    lanes: int


def convolution_shape(schedule: Schedule) -> ConvolutionShape:
    """Find the convolution of a function that is not scheduled yet.

    Raises:
        NotApplicable: there is none, or several, or its weight or its rows are of another form.
    """
    every = blocks(schedule)
    found = [i for i, block in enumerate(every) if rule_of(schedule, block) in RULES]
    if not found:
        raise NotApplicable
    if len(found) > 1:
        raise NotApplicable(f"{len(found)} convolution blocks")
    (at,) = found
    conv = every[at]
    _, row, column, out, *_ = schedule.get_loops(conv)
    lanes = _weight_lanes(schedule, conv)
    return ConvolutionShape(
        rule=rule_of(schedule, conv),
        at=at,
        height=known_extent(schedule, row),
        width=known_extent(schedule, column),
        out_blocks=known_extent(schedule, out) // lanes,
        lanes=lanes,
    )


def register_budget(family: Family, rule: str) -> int:
    """Vector registers that the sums of a convolution of this rule may fill."""
    return family.float_accumulators if rule == "insta_fconv" else family.accumulators


def schedule_conv(kernel: Kernel) -> tuple[str, ConvTiles]:
    """Schedule a blocked convolution and everything fused with it.

    Returns:
        The rule's name and the tiles that were used.
    """
    schedule = kernel.schedule
    shape = convolution_shape(schedule)
    every = blocks(schedule)
    conv, before, behind = every[shape.at], every[: shape.at], every[shape.at + 1 :]

    tail = _join_epilogue(kernel, conv, behind)
    batch, row, column, out, *reduction = schedule.get_loops(conv)
    lanes, rule = shape.lanes, shape.rule
    tiles = choose_tiles(
        kernel.tiles,
        kernel.family,
        rule=rule,
        height=shape.height,
        width=shape.width,
        out_blocks=shape.out_blocks,
        padded=bool(before),
    )

    band, row = schedule.split(row, [None, tiles.row_band])
    tile, column = schedule.split(column, [None, tiles.width_tile])
    block, vector, lane = schedule.split(out, [None, tiles.out_tile, lanes])
    inner = [row, tile, *reduction, column, vector, lane]
    # A padded band is shared by all channel blocks; else the channel blocks are tasks too.
    outer = [batch, band, block] if before else [batch, block, band]
    schedule.reorder(*outer, *inner)

    for output in tail:
        schedule.reverse_compute_at(output, tile, preserve_unit_loops=True)
    schedule.set_scope(conv, 0, "local")
    for pad in before:
        schedule.compute_at(pad, band, preserve_unit_loops=True)
    parallelise(schedule, outer[:2] if before else outer)

    for output in tail:
        _vectorise_tile(schedule, output, lanes)
    schedule.unroll(column)
    schedule.unroll(vector)
    if lanes > 1 and not _lanes_cross_groups(schedule, conv, lanes):
        schedule.vectorize(lane)
    if tiles.unroll_taps:
        schedule.unroll(reduction[1])
    schedule.decompose_reduction(conv, reduction[0])
    for pad in before:
        _schedule_pad(schedule, pad, kernel.lanes)
    return rule, tiles


def choose_tiles(
    wish: ConvTiles,
    family: Family,
    *,
    rule: str,
    height: int,
    width: int,
    out_blocks: int,
    padded: bool,
) -> ConvTiles:
    """Fill in the tile sizes that `wish` leaves open.

    Tiles divide the row and the channel blocks, so that the hot loop needs no bounds check. Among
    those that fit into the registers the one with the most sums wins, and of several the widest: it
    needs the fewest weight vectors and epilogue constants. A row of prime width gets tiles of one
    pixel and many channels, which is nearly as good.
    """
    budget = register_budget(family, rule)
    fitting = [
        (across, deep)
        for across in ([wish.width_tile] if wish.width_tile else divisors(width))
        for deep in ([wish.out_tile] if wish.out_tile else divisors(out_blocks))
        if across * deep <= budget or (wish.width_tile and wish.out_tile)
    ]
    fitting = [(a, d) for a, d in fitting if width % a == 0 and out_blocks % d == 0]
    if not fitting:
        raise NotApplicable(
            f"width_tile {wish.width_tile} and out_tile {wish.out_tile} do not divide {width} "
            f"pixels and {out_blocks} channel blocks within {budget} registers"
        )
    width_tile, out_tile = max(fitting, key=lambda tile: (tile[0] * tile[1], tile[0]))

    band = wish.row_band
    if not band and padded:
        band = largest_divisor(height, _PADDED_BAND)
    elif not band:
        band = band_height(height, out_blocks // out_tile)
    if height % band:
        raise NotApplicable(f"row_band {band} does not divide {height} rows")
    return ConvTiles(width_tile, out_tile, band, wish.unroll_taps)


def _join_epilogue(kernel: Kernel, conv: Any, behind: list[Any]) -> list[Any]:
    """Inline every block behind the convolution into the outputs.

    Returns:
        The blocks to compute at the tile: the outputs, or a plain store of the sums where the
        convolution is the output or an output does not lie pixel on pixel (a reshape, say).
    """
    schedule = kernel.schedule
    outputs = [block for block in behind if is_output(schedule, block)]
    for block in behind:
        if not any(block.same_as(output) for output in outputs):
            schedule.compute_inline(block)
    if outputs and all(reads_in_place(schedule, output, conv) for output in outputs):
        return outputs
    for output in outputs:
        elementwise_pass(kernel, output)
    return [schedule.cache_write(conv, 0, "local")]


def _weight_lanes(schedule: Any, conv: Any) -> int:
    """L of the blocked weight [O / L, KH, KW, C, L]."""
    shapes = [region.source.shape for region in schedule.get(conv).reads]
    found = {int(shape[-1]) for shape in shapes if len(shape) == 5}
    if len(found) != 1:
        raise NotApplicable("the weight is not blocked")
    return found.pop()


def _lanes_cross_groups(schedule: Any, conv: Any, lanes: int) -> bool:
    """Whether the lanes of one vector may read different groups of the data."""
    data, weight = (
        next(r.source for r in schedule.get(conv).reads if len(r.source.shape) == rank)
        for rank in (4, 5)
    )
    planes = {v.var.name: v for v in schedule.get(conv).iter_vars}
    plane = next((int(v.dom.extent) for n, v in planes.items() if "plane" in n), 1)
    groups = int(data.shape[3]) // (int(weight.shape[3]) * plane)
    per_group = int(weight.shape[0]) * lanes // max(groups, 1)
    return groups > 1 and per_group % lanes != 0


def _vectorise_tile(schedule: Any, output: Any, lanes: int) -> None:
    """Epilogue of one tile: pixels and vectors unrolled, channels in lanes."""
    *pixels, channel = schedule.get_loops(output)[-4:]
    if extent(schedule, channel) is None:
        raise NotApplicable("the epilogue has a symbolic channel tile")
    vector, lane = schedule.split(channel, [None, lanes])
    for loop in [*pixels, vector]:
        schedule.unroll(loop)
    if lanes > 1:
        schedule.vectorize(lane)


def _schedule_pad(schedule: Any, pad: Any, lanes: int) -> None:
    """Padding of one band: zeros first, then the rows as contiguous copies, if TVM can split it."""
    if name_of(schedule, pad) != "pad":
        return
    loops = schedule.get_loops(pad)[-4:]
    try:
        schedule.decompose_padding(pad, loops[0])
    except ScheduleError:
        vectorise_last(schedule, loops, lanes)
