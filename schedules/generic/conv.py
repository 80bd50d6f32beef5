"""The convolution rule: binary ("insta_bconv") and float ("insta_fconv"), with their epilogue.

A blocked convolution holds [pad], the reduction over [N, OH, OW, O], and element-wise blocks of the
same shape behind it. The rule makes one loop nest of them:

    parallel over images, row blocks, blocks of output channels
      for each row, for each tile of `width_tile` pixels
        sums of width_tile x out_tile vectors, held in registers:
          for ky, kx, [plane], word (or channel): multiply-add or xor, popcount, add
        the whole epilogue of the tile, one pass; fused sums of its row, and packed bits

Each vector holds L neighbouring output channels, L the last dimension of the blocked weight. One
word of data is broadcast to all lanes and meets `out_tile` weight vectors; each weight vector meets
`width_tile` pixels. No sum is split, so the order of a float sum stays ky, kx, c.

The tile loop is inside the band and the output channels are outside it, so that the weights of one
block (out_tile * L channels, 18 KB in the largest layer of ResNet-18) stay in the first-level cache
while the band passes by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm.ir import IRModule
from tvm.s_tir import Schedule, ScheduleError

from tvm_insta.schedules.base import (
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    OtherKind,
    band_height,
    blocks,
    divisors,
    elementwise_pass,
    extent,
    is_among,
    is_output,
    known_extent,
    largest_divisor,
    name_of,
    parallelise,
    reads_in_place,
    rule_of,
    vectorise_last,
)
from tvm_insta.schedules.generic.consumers import (
    Consumers,
    find_consumers,
    finish_consumers,
    fuse_consumers,
    schedule_consumers_apart,
)
from tvm_insta.schedules.generic.lane_loads import fetch_strip, fetched_at_once, strip_cost
from tvm_insta.schedules.generic.word_load import words_at_once

RULES = ("insta_bconv", "insta_fconv")

_CODES = "narrow_pad"
"""Name of the block that makes narrow numbers of an image, see ops/conv2d_narrow.py."""

# Rows of a band where the padded image is computed per band: neighbouring bands share KH - 1 padded
# rows, which both compute.
_PADDED_BAND = 16


@dataclass(frozen=True)
class ConvolutionShape:
    """What the tiles of a convolution have to divide.

    Attributes:
        rule: "insta_bconv" or "insta_fconv".
        at: position of its block in the function; the blocks before it are padding, or count bits
            that its own adds up.
        padded: whether one is padding.
        height: output rows.
        width: output pixels of a row.
        out_blocks: vectors of `lanes` output channels.
        lanes: output channels of a vector: L of the blocked weight, or a part of it.
        unrolled: steps that `unroll_taps` writes out: kernel columns, or of a layer in narrow
            numbers the units of a kernel row, which its channels make more.
    """

    rule: str
    at: int
    padded: bool
    height: int
    width: int
    out_blocks: int
    lanes: int
    unrolled: int = 1


def convolution_shape(schedule: Schedule, lanes: int) -> ConvolutionShape:
    """Find the convolution of a function that is not scheduled yet.

    Args:
        schedule: of the function.
        lanes: of the target's vectors; a block of a float weight may hold several of them.

    Raises:
        NotApplicable: there is none, or several, or its weight or its rows are of another form.
    """
    every = blocks(schedule)
    found = [i for i, block in enumerate(every) if rule_of(schedule, block) in RULES]
    if not found:
        raise OtherKind
    if len(found) > 1:
        raise NotApplicable(f"{len(found)} convolution blocks")
    (at,) = found
    conv = every[at]
    _, row, column, out, *summed = schedule.get_loops(conv)
    consumer = _consumer(schedule, every[:at], conv)
    block_lanes = _weight_lanes(schedule, consumer)
    rule = rule_of(schedule, conv)
    lanes = largest_divisor(block_lanes, lanes) if rule == "insta_fconv" else block_lanes
    return ConvolutionShape(
        rule=rule,
        at=at,
        padded=any(block is not consumer for block in _in_front(schedule, every[:at], conv)[0]),
        height=known_extent(schedule, row),
        width=known_extent(schedule, column),
        out_blocks=known_extent(schedule, out) // lanes,
        lanes=lanes,
        unrolled=known_extent(schedule, summed[1]) if len(summed) > 1 else 1,
    )


def register_budget(family: Family, rule: str) -> int:
    """Vector registers that the sums of a convolution of this rule may fill."""
    return family.float_accumulators if rule == "insta_fconv" else family.accumulators


def schedule_conv(kernel: Kernel) -> tuple[str, ConvTiles]:
    """Schedule a blocked convolution and everything fused with it.

    Returns:
        The rule's name and the tiles that were used.
    """
    shape = convolution_shape(kernel.schedule, kernel.lanes)
    consumers = find_consumers(kernel)
    schedule = kernel.schedule
    every = blocks(schedule)
    conv, behind = every[shape.at], every[shape.at + 1 :]
    before, beside = _in_front(schedule, every[: shape.at], conv)
    behind = [*beside, *behind]
    consumer = _consumer(schedule, before, conv)
    partial = before.pop() if before and consumer is before[-1] else None

    mine = [b for b in behind if not is_among(schedule, b, consumers.all)]
    tail, in_place = fuse_epilogue(kernel, conv, mine, consumers)
    batch, row, column, out, *reduction = schedule.get_loops(conv)
    lanes, rule = shape.lanes, shape.rule
    pack = consumers.pack
    strip = fetched_at_once(reduction, kernel.family.lane_loads)
    tiles = choose_tiles(
        kernel.tiles,
        replace(kernel.family, lane_loads=strip),
        rule=rule,
        height=shape.height,
        width=shape.width,
        out_blocks=shape.out_blocks,
        padded=shape.padded,
        word_vectors=max(pack.lanes // lanes, 1) if in_place and pack is not None else 1,
    )

    band, row = schedule.split(row, [None, tiles.row_band])
    tile, column = schedule.split(column, [None, tiles.width_tile])
    block, vector, lane = schedule.split(out, [None, tiles.out_tile, lanes])
    inner = [row, tile, *reduction, column, vector, lane]
    # Bands first: what a thread takes in a row then lies where it has read and will read again.
    outer = [batch, band, block]
    schedule.reorder(*outer, *inner)

    for output in tail:
        schedule.reverse_compute_at(output, tile, preserve_unit_loops=True)
    schedule.set_scope(conv, 0, "local")
    if in_place:
        fuse_consumers(kernel, consumers, tile, lanes, tiles.out_tile * lanes)
    else:
        schedule_consumers_apart(kernel, consumers)
    if partial is not None:
        first = _fuse_partial(schedule, partial, reduction[-1], lanes)
    elif rule == "insta_fconv" and strip > 1:
        reduction = fetch_strip(schedule, conv, reduction, strip)
    for pad in before:
        schedule.compute_at(pad, band, preserve_unit_loops=True)
    # A padded band is shared by all channel blocks; else the channel blocks are tasks too.
    parallelise(schedule, outer[:2] if before else outer)

    for output in tail:
        vectorise_tile(schedule, output, lanes)
    schedule.unroll(column)
    schedule.unroll(vector)
    if lanes > 1 and not lanes_cross_groups(schedule, consumer, lanes):
        schedule.vectorize(lane)
    if tiles.unroll_taps and partial is None and len(reduction) > 1:
        schedule.unroll(reduction[1])
    if partial is not None:
        schedule.decompose_reduction(partial, first)
    schedule.decompose_reduction(conv, reduction[0])
    for pad in before:
        _schedule_pad(schedule, pad, kernel.lanes)
    finish_consumers(kernel, consumers, tile)
    if any(name_of(schedule, pad) == _CODES for pad in before):
        loaded = words_at_once(kernel.schedule.mod["main"])
        kernel.schedule = Schedule(IRModule({"main": loaded}))
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
    word_vectors: int = 1,
) -> ConvTiles:
    """Fill in the tile sizes that `wish` leaves open.

    Tiles divide the row and the channel blocks, so that the hot loop needs no bounds check. Among
    those that fit into the registers the one with the most sums wins, and of several the widest: it
    needs the fewest weight vectors and epilogue constants. Where the outputs are packed as well, a
    tile of whole words (a multiple of `word_vectors`) goes before all that. A row of prime width
    gets tiles of one pixel and many channels, which is nearly as good.
    """
    budget = register_budget(family, rule)
    fitting = [
        (across, deep)
        for across in ([wish.width_tile] if wish.width_tile else divisors(width))
        for deep in ([wish.out_tile] if wish.out_tile else divisors(out_blocks))
        if across * deep <= budget or (wish.width_tile and wish.out_tile)
    ]
    fitting = [(a, d) for a, d in fitting if width % a == 0 and out_blocks % d == 0]
    strips = rule == "insta_fconv" and bool(family.lane_loads)
    if not fitting:
        raise NotApplicable(
            f"width_tile {wish.width_tile} and out_tile {wish.out_tile} do not divide {width} "
            f"pixels and {out_blocks} channel blocks within {budget} registers"
        )
    width_tile, out_tile = max(
        fitting,
        key=lambda tile: (
            tile[1] % word_vectors == 0,
            -strip_cost(tile[0], tile[1], family.lane_loads) if strips else 0.0,
            tile[0] * tile[1],
            tile[0],
        ),
    )

    band = wish.row_band or own_band(height, out_blocks // out_tile, padded=padded)
    if height % band:
        raise NotApplicable(f"row_band {band} does not divide {height} rows")
    return ConvTiles(width_tile, out_tile, band, wish.unroll_taps)


def own_band(height: int, channel_blocks: int, *, padded: bool) -> int:
    """The rows of a band that a convolution takes by itself, with so many blocks of a tile."""
    return largest_divisor(height, _PADDED_BAND) if padded else band_height(height, channel_blocks)


def fuse_epilogue(
    kernel: Kernel, conv: Any, behind: list[Any], consumers: Consumers
) -> tuple[list[Any], bool]:
    """Inline every block behind the convolution into the outputs and into what consumers read.

    Returns:
        The blocks to compute at the tile: the outputs and the tensor that is read, or a plain store
        of the sums where the convolution is the output or an output does not lie pixel on pixel (a
        reshape, say). And whether the consumers can be computed at the tile too.
    """
    schedule = kernel.schedule
    kept = [block for block in behind if is_output(schedule, block)]
    if consumers.any and behind and not is_among(schedule, behind[-1], kept):
        kept.append(behind[-1])
    for block in behind:
        if not is_among(schedule, block, kept):
            schedule.compute_inline(block)
    if kept and all(reads_in_place(schedule, block, conv) for block in kept):
        return kept, True
    for block in kept:
        elementwise_pass(kernel, block)
    return [schedule.cache_write(conv, 0, "local")], not kept


def _in_front(schedule: Any, every: list[Any], conv: Any) -> tuple[list[Any], list[Any]]:
    """Of the blocks in front of a convolution those that feed it, and those beside it.

    The latter are what its epilogue reads besides the sums: they are inlined there.
    """
    feeding: list[Any] = []
    todo = [conv]
    while todo:
        for block in schedule.get_producers(todo.pop()):
            if not is_among(schedule, block, feeding):
                feeding.append(block)
                todo.append(block)
    before = [block for block in every if is_among(schedule, block, feeding)]
    return before, [block for block in every if not is_among(schedule, block, feeding)]


def _consumer(schedule: Any, before: list[Any], conv: Any) -> Any:
    """The block that reads data and weight: the sums of bytes where there are such."""
    has_partial = bool(before) and name_of(schedule, before[-1]) == "bconv_partial"
    return before[-1] if has_partial else conv


def _fuse_partial(schedule: Any, partial: Any, loop: Any, lanes: int) -> Any:
    """Sums of bytes of one tile at `loop`, in registers; returns the first loop of the sum."""
    schedule.compute_at(partial, loop, preserve_unit_loops=True)
    schedule.set_scope(partial, 0, "local")
    *_, column, _, _, _, _, out, ky, kx, word = schedule.get_loops(partial)
    vector, lane = schedule.split(out, [None, lanes])
    schedule.reorder(ky, kx, word, column, vector, lane)
    schedule.unroll(column)
    schedule.unroll(vector)
    if lanes > 1:
        schedule.vectorize(lane)
    return ky


def _weight_lanes(schedule: Any, conv: Any) -> int:
    """L of the blocked weight [O / L, KH, KW, C, L]."""
    shapes = [region.source.shape for region in schedule.get(conv).reads]
    found = {int(shape[-1]) for shape in shapes if len(shape) == 5}
    if len(found) != 1:
        raise NotApplicable("the weight is not blocked")
    return found.pop()


def lanes_cross_groups(schedule: Any, conv: Any, lanes: int) -> bool:
    """Whether the lanes of one vector may read different groups of the data."""
    data, weight = (
        next((r.source for r in schedule.get(conv).reads if len(r.source.shape) == rank), None)
        for rank in (4, 5)
    )
    if data is None or weight is None:
        return False  # data in another form, which has no groups
    planes = {v.var.name: v for v in schedule.get(conv).iter_vars}
    plane = next((int(v.dom.extent) for n, v in planes.items() if "plane" in n), 1)
    groups = int(data.shape[3]) // (int(weight.shape[3]) * plane)
    per_group = int(weight.shape[0]) * lanes // max(groups, 1)
    return groups > 1 and per_group % lanes != 0


def vectorise_tile(schedule: Any, output: Any, lanes: int, *, vectors_first: bool = False) -> None:
    """Epilogue of one tile: pixels and vectors unrolled, channels in lanes."""
    *pixels, channel = schedule.get_loops(output)[-4:]
    if extent(schedule, channel) is None:
        raise NotApplicable("the epilogue has a symbolic channel tile")
    vector, lane = schedule.split(channel, [None, lanes])
    if vectors_first:
        schedule.reorder(vector, *pixels)
    for loop in [*pixels, vector]:
        schedule.unroll(loop)
    if lanes > 1:
        schedule.vectorize(lane)


_PADS = ("pad", _CODES)
"""Names of the blocks in which our float convolutions pad their input."""


def _schedule_pad(schedule: Any, pad: Any, lanes: int) -> None:
    """Padding of one band: zeros first, then the rows as contiguous copies, if TVM can split it."""
    if name_of(schedule, pad) not in _PADS:
        return
    loops = schedule.get_loops(pad)[-len(schedule.get(pad).iter_vars) :]
    try:
        schedule.decompose_padding(pad, loops[0])
    except ScheduleError:
        vectorise_last(schedule, loops, lanes)


# Tiles beyond the family's own register budget are worth a measurement up to this factor: the
# budget says what was best on one CPU, not what the architecture has.
_OVER_BUDGET = 2

# Steps beyond which unrolled code is too long for the cache of instructions.
_MOST_UNROLLED = 16


def conv_space(kernel: Kernel) -> list[ConvTiles]:
    """All tiles worth a measurement; `schedule_conv` applies each as it stands.

    Raises:
        OtherKind: the function holds no convolution for that rule.
        NotApplicable: the convolution is of another form.
    """
    shape = convolution_shape(kernel.schedule, kernel.lanes)
    budget = register_budget(kernel.family, shape.rule) * _OVER_BUDGET
    unrolls = (False, True) if shape.unrolled <= _MOST_UNROLLED else (False,)
    return [
        ConvTiles(across, deep, band, unroll)
        for across in divisors(shape.width)
        for deep in divisors(shape.out_blocks)
        if across * deep <= budget
        for band in divisors(shape.height)
        if band <= own_band(shape.height, shape.out_blocks // deep, padded=shape.padded)
        for unroll in unrolls
    ]
