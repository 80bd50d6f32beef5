"""Binary convolutions on NEON: sums in bytes, in pairs of bytes, or by dot product.

    parallel over images, blocks of output channels, bands of rows
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

from dataclasses import dataclass
from typing import Any

from tvm import s_tir
from tvm.ir import IRModule

from .common import (
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    band_height,
    blocks,
    divisors,
    is_among,
    known_extent,
    largest_divisor,
    parallelise,
    rule_of,
)
from .conv import join_epilogue, vectorise_tile
from .readers import find_readers, finish_readers, join_readers, readers_alone
from .stages import BYTES, DOT, PAIRS, Step, read_units, write_stages

RULES = {"insta_bconv_bytes": BYTES, "insta_bconv_pairs": PAIRS}

_STEPS = {"bytes": BYTES, "pairs": PAIRS, "dot": DOT}

# Channels of a tile whose epilogue is computed at a time, pixel by pixel: two vectors of floats.
# With more, LLVM keeps so many constants of the channels that it runs out of registers.
_TAIL_LANES = 8

# Blocks in front of the sum, by its kind, and axes of a sum of one bit plane.
_BEFORE = {BYTES: 2, PAIRS: 1, DOT: 0}
_SUMS_OF_DOT = 3

# Tiles beyond the registers that are worth a measurement, as in `space`.
_OVER_BUDGET = 2

# Uneven tiles of one row; each has code of its own, up to 6 KB.
_MOST_PARTS = 4


@dataclass(frozen=True)
class Blocking:
    """How a binary weight is laid out for a family of CPUs.

    Attributes:
        dtype: "uint8" or "uint16" for pieces, "uint32" for words.
        lanes: output channels of a block.
        byte_counts: whether words are summed as counts of their bytes.
    """

    dtype: str
    lanes: int
    byte_counts: bool = False


def blocking(family: Family, out_channels: int, bits: int) -> Blocking | None:
    """The layout of a binary weight without groups; None for the family's plain vectors of words.

    Args:
        family: of the target.
        out_channels: output channels.
        bits: bits of an activation.
    """
    if family.binary == "byte_counts":
        # Only whole vectors: LLVM 22 miscompiles some scalar code of this kind (it says so itself).
        whole = out_channels % family.lanes == 0
        return Blocking("uint32", family.lanes, byte_counts=True) if whole else None
    name = "bytes" if family.binary == "dot" and bits > 1 else family.binary
    step = _STEPS.get(name)
    if step is None or out_channels % step.lanes or (bits > 1 and step is PAIRS):
        return None
    vectors = largest_divisor(out_channels // step.lanes, 4)
    return Blocking(step.piece, vectors * step.lanes)


def schedule_neon(kernel: Kernel) -> tuple[str, ConvTiles]:  # noqa: PLR0912, PLR0915  one recipe
    """Schedule a binary convolution with such a weight, and everything fused with it.

    Returns:
        The rule's name and the tiles that were used.
    """
    mine = _rules(kernel)
    if not any(rule_of(kernel.schedule, block) in mine for block in blocks(kernel.schedule)):
        raise NotApplicable
    readers = find_readers(kernel)
    schedule = kernel.schedule
    every = blocks(schedule)
    rules = [rule_of(schedule, block) for block in every]
    found = [i for i, rule in enumerate(rules) if rule in mine]
    if len(found) > 1:
        raise NotApplicable(f"{len(found)} convolution blocks")
    (at,) = found
    rule, conv, before = rules[at], every[at], every[:at]
    step = mine[rule]
    if len(before) != _BEFORE[step]:
        raise NotApplicable("a block before the convolution")
    block_lanes = _block_lanes(schedule, [*before, conv])
    if block_lanes % step.lanes:
        raise NotApplicable(f"the weight has blocks of {block_lanes} channels")

    behind = [b for b in every[at + 1 :] if not is_among(schedule, b, readers.all)]
    tail, in_place = join_epilogue(kernel, conv, behind, readers)
    batch, row, column, out, *summed = schedule.get_loops(conv)
    width, height = known_extent(schedule, column), known_extent(schedule, row)
    tiles = choose_tiles(kernel, step, height, width, known_extent(schedule, out), block_lanes)
    band, row = schedule.split(row, [None, tiles.row_band])
    tile, column = _cut(schedule, column, width, tiles.width_tile)
    block, group, lane = schedule.split(out, [None, tiles.out_tile, step.lanes])
    outer = [batch, block, band, row, tile]
    inner: list[Any] = []
    if step is not BYTES:
        summed, inner = _order_sums(schedule, step, summed)
    if step is BYTES:
        schedule.reorder(*outer, group, column, *summed, lane)
    else:
        schedule.reorder(*outer, *summed, *inner, group, column, lane)
    # Bytes lie on the stack, so that their channels can be a loop: short code, few registers.
    complete = group if step is BYTES else tile
    for output in tail:
        schedule.reverse_compute_at(output, complete, preserve_unit_loops=True)
    schedule.set_scope(conv, 0, "local")
    if in_place and width % tiles.width_tile == 0:
        join_readers(kernel, readers, tile, step.lanes, tiles.out_tile * step.lanes, complete)
    else:
        readers_alone(kernel, readers)
    if step is BYTES:
        pieces, partial = before
        first = _stack_bytes(schedule, pieces, partial, tile, len(summed))
    else:
        pieces = before[0] if before else schedule.cache_read(conv, 0, "local")
        _fetch(schedule, pieces, summed[1])
    parallelise(schedule, outer[:3])
    for output in tail:
        vectorise_tile(schedule, output, _TAIL_LANES, vectors_first=True)
    for loop in (*inner, column) if step is BYTES else (*inner, column, group):
        schedule.unroll(loop)
    schedule.vectorize(lane)
    if step is BYTES:
        schedule.decompose_reduction(partial, first)
    schedule.decompose_reduction(conv, summed[0])
    finish_readers(kernel, readers, tile)
    name = "bconv_partial_update" if step is BYTES else "bconv_update"
    function = read_units(write_stages(kernel.schedule.mod["main"], name, step))
    kernel.schedule = s_tir.Schedule(IRModule({"main": function}))
    return rule, tiles


def neon_choices(kernel: Kernel) -> list[ConvTiles]:
    """All sizes that `schedule_neon` applies as they stand.

    Raises:
        NotApplicable: the function holds no such convolution.
    """
    schedule, every = kernel.schedule, blocks(kernel.schedule)
    mine = _rules(kernel)
    found = [i for i, block in enumerate(every) if rule_of(schedule, block) in mine]
    if len(found) != 1:
        raise NotApplicable
    conv, before = every[found[0]], every[: found[0]]
    step = mine[rule_of(schedule, conv)]
    if len(before) != _BEFORE[step]:
        raise NotApplicable("a block before the convolution")
    _, row, column, out, *summed = schedule.get_loops(conv)
    if step is DOT and len(summed) != _SUMS_OF_DOT:
        raise NotApplicable("several bit planes")
    vectors, rest = divmod(_block_lanes(schedule, [*before, conv]), step.lanes)
    if rest:
        raise NotApplicable("the weight has blocks of other channels")
    height, width = known_extent(schedule, row), known_extent(schedule, column)
    uneven = {-(-width // parts) for parts in range(1, _MOST_PARTS + 1)}
    budget = _OVER_BUDGET * kernel.family.binary_sums
    channels = known_extent(schedule, out)
    own = choose_tiles(kernel, step, height, width, channels, vectors * step.lanes)
    return [
        ConvTiles(across, deep, band)
        for across in sorted({*divisors(width), *uneven, own.width_tile})
        for deep in divisors(vectors)
        if across * deep <= budget or (across, deep) == (own.width_tile, own.out_tile)
        for band in divisors(height)
    ]


def _rules(kernel: Kernel) -> dict[str, Step]:
    """How each kind of block is summed on a CPU."""
    return {**RULES, **({"insta_bconv": DOT} if kernel.family.binary == "dot" else {})}


def choose_tiles(
    kernel: Kernel, step: Step, height: int, width: int, channels: int, block_lanes: int
) -> ConvTiles:
    """Tile sizes; the channels of a tile lie in one block of the weight."""
    wish, budget = kernel.tiles, kernel.family.binary_sums
    deep = wish.out_tile or largest_divisor(block_lanes // step.lanes, 4)
    if block_lanes // step.lanes % deep:
        raise NotApplicable(f"out_tile {deep} does not divide {block_lanes // step.lanes} vectors")
    across = wish.width_tile
    if not across:
        most = max(1, min(budget // deep, 4 if deep > 1 else 8))
        parts = -(-width // most)
        across = -(-width // parts) if parts <= _MOST_PARTS else largest_divisor(width, most)
    band = wish.row_band or band_height(height, channels // (deep * step.lanes))
    if height % band:
        raise NotApplicable(f"row_band {band} does not divide {height} rows")
    return ConvTiles(across, deep, band)


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


def _cut(schedule: Any, column: Any, width: int, tile: int) -> list[Any]:
    """The loop over the tiles of a row, unrolled if they are uneven, and that over the pixels."""
    part, pixel = schedule.split(column, [None, tile])
    if width % tile:
        schedule.unroll(part)
    return [part, pixel]


def _order_sums(schedule: Any, step: Step, summed: list[Any]) -> tuple[list[Any], list[Any]]:
    """The reduction loops of a sum in one step: (those that stay loops, those to unroll)."""
    if step is DOT:
        row, column, *planes, word = summed
        if planes:
            raise NotApplicable("several bit planes")
        unit, word = schedule.split(word, [None, largest_divisor(known_extent(schedule, word), 2)])
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
