"""The rule of `insta.threshold_pack` ("insta_pack"): 32 comparisons become one word.

`insta.threshold_signs`, which writes bytes in place of bits, takes the same way with vectors of
bytes in place of words, see `signs`; what follows is about words.

The operator sums shifted bits, 32 dependent steps per word. The rule replaces the sum by a gather,
which means the same because every term is 0 or a bit of its own:

    one bit per activation and whole words of channels:
        threshold_pack[..., word] = gather(compare 32 channels at once)
    else:
        pack_flags[..., word, bit] = the term of this bit, as a lane of a vector
        threshold_pack[..., word]  = gather(32 lanes of pack_flags)

The last word of 784 channels has 16. A test of each channel would make scalars of all words, so it
takes the last 32 channels, all of which exist, and shifts those of the word before out.

On x86 and Arm a lane is a byte of ones or zeros. x86's `pmovmskb` gathers the top bits of 32 (or
16) bytes; on NEON byte i keeps bit i % 8, and three pairwise additions make a byte of each eight.
Elsewhere a lane is the shifted bit itself and an OR across the lanes gathers them. The comparison
means what it did, so NaN, infinities, -0.0 and ties come out as the operator defines them; but
where vector instructions take subnormal numbers for zero, it is done on integers.

Words with zeros around them are stored where they belong at once; a loop in front of the function
writes the zeros of the border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir import IRModule, Range
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

from tvm_insta.schedules.base import (
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    OtherKind,
    WordMask,
    band_height,
    blocks,
    divisors,
    extent,
    is_output,
    name_of,
    parallelise,
    rule_of,
)
from tvm_insta.schedules.generic.border import border, find_padding
from tvm_insta.schedules.generic.comparisons import compared, element, substituted
from tvm_insta.schedules.generic.exact import exact_comparisons
from tvm_insta.schedules.generic.loops import (
    index,
    innermost,
    nest_of,
    ramp,
    sequence,
    steps_of,
    with_root,
)
from tvm_insta.schedules.generic.signs import BLOCK as SIGNS
from tvm_insta.schedules.generic.signs import vectors_of_signs

_IF_THEN_ELSE = tvm.ir.Op.get("prim.if_then_else")

WORD = 32
"""Channels of a packed word."""

# Words of a pixel that are packed without a loop between them.
_UNROLLED_WORDS = 4

_MOST_PIXELS = 8  # more of them unrolled are not worth a measurement


@dataclass
class Pack:
    """The blocks of `insta.threshold_pack`, or of `insta.threshold_signs`, in a schedule.

    Attributes:
        words: the block that writes the words, or vectors of bytes.
        flags: the block "pack_flags", None where `words` compares by itself.
        pad: zeros around the image, in pixels: top, left, bottom, right.
        lanes: channels of a word, or of a vector of bytes.
        used: bytes of a pixel that `words` writes; those behind them are zeros. None for all.
    """

    words: Any
    flags: Any
    pad: tuple[int, ...]
    lanes: int = WORD
    used: int | None = None

    @property
    def all(self) -> list[Any]:
        """The blocks in their order."""
        return [self.words] if self.flags is None else [self.flags, self.words]


def schedule_pack(kernel: Kernel) -> tuple[str, ConvTiles | None]:
    """Schedule a function that holds the block of `insta.threshold_pack` and no reduction."""
    pack = find_pack(kernel, overlap=True)
    if pack is None:
        raise OtherKind
    schedule = kernel.schedule
    mine = {name_of(schedule, block) for block in pack.all}
    for block in blocks(schedule):
        if name_of(schedule, block) in mine:
            break
        if is_output(schedule, block) or pack.flags is None:
            raise NotApplicable("a block in front of the packing")
        schedule.compute_inline(block)
    if not is_output(schedule, pack.words):
        raise NotApplicable("a block behind the packing")
    tiles = _choose_tiles(kernel, pack)
    pack_alone(kernel, pack, tiles)
    write_border(kernel, pack)
    return "insta_pack", tiles


def pack_space(kernel: Kernel) -> list[ConvTiles]:
    """All sizes worth a measurement, for a function that only packs.

    `width_tile` is how many pixels are packed without a loop between them, `row_band` the rows of
    a task.

    Raises:
        NotApplicable: the packing has a form that the rule does not take.
    """
    pack = find_pack(kernel)
    if pack is None or len(blocks(kernel.schedule)) != len(pack.all):
        return []
    size = _image(kernel, pack)
    if size is None:
        return []
    return [
        ConvTiles(across, 1, band)
        for across in divisors(size[1])
        if across <= _MOST_PIXELS
        for band in divisors(size[0])
        if band <= band_height(size[0], 1)
    ]


def _image(kernel: Kernel, pack: Pack) -> tuple[int, int] | None:
    """Height and width that are packed, None where it is no image of a known size."""
    batch_and_image = kernel.schedule.get_loops(pack.words)[:-1]
    if len(batch_and_image) != 3:
        return None
    height, width = (extent(kernel.schedule, loop) for loop in batch_and_image[1:])
    return None if height is None or width is None else (height, width)


def _choose_tiles(kernel: Kernel, pack: Pack) -> ConvTiles | None:
    """Fill in the sizes that are left open; None where there is nothing to choose."""
    wish, size = kernel.tiles, _image(kernel, pack)
    if size is None:
        return None
    across, band = wish.width_tile or 1, wish.row_band or band_height(size[0], 1)
    if wish.out_tile > 1 or size[0] % band or size[1] % across:
        raise NotApplicable(f"{wish} does not divide {size[0]} rows of {size[1]} pixels")
    return ConvTiles(across, 1, band)


def find_pack(kernel: Kernel, *, overlap: bool = False) -> Pack | None:
    """Bring the packing of a function into its gathering form; None if it packs nothing.

    Args:
        kernel: its schedule is replaced.
        overlap: let the last word of a group take the last 32 channels, where there are as many;
            not where the channels are computed in tiles in front of the packing.
    """
    found = [
        block
        for block in blocks(kernel.schedule)
        if rule_of(kernel.schedule, block) == "insta_pack"
    ]
    if not found:
        return None
    if len(found) > 1:
        raise NotApplicable(f"{len(found)} packing blocks")
    name = name_of(kernel.schedule, found[0])
    if name == SIGNS:
        return _find_signs(kernel)
    function, pad = _gather(kernel.schedule.mod["main"], name, kernel.family, overlap)
    kernel.schedule = s_tir.Schedule(IRModule({"main": function}))
    named = {name_of(kernel.schedule, block): block for block in blocks(kernel.schedule)}
    return Pack(named[name], named.get("pack_flags"), pad)


def _find_signs(kernel: Kernel) -> Pack:
    """The same for bytes."""
    made = vectors_of_signs(kernel.schedule.mod["main"])
    kernel.schedule = s_tir.Schedule(IRModule({"main": made.function}))
    (block,) = [b for b in blocks(kernel.schedule) if name_of(kernel.schedule, b) == SIGNS]
    depth = int(kernel.schedule.get(block).writes[0].source.shape[-1])
    used = made.channels if made.channels < depth else None
    return Pack(block, None, made.pad, made.lanes, used)


def pack_alone(kernel: Kernel, pack: Pack, tiles: ConvTiles | None = None) -> None:
    """Pack in a loop nest of its own, over a finished tensor."""
    schedule = kernel.schedule
    loops = schedule.get_loops(pack.words)
    if pack.flags is not None:
        schedule.compute_at(pack.flags, loops[-1], preserve_unit_loops=True)
        schedule.set_scope(pack.flags, 0, "local")
        schedule.vectorize(schedule.get_loops(pack.flags)[-1])
    batch, *rows, last_word = loops
    if rows:
        height = extent(schedule, rows[0])
        own = 0 if tiles is None else tiles.row_band
        size = own or (band_height(height, 1) if height else 1)
        band, _ = schedule.split(rows[0], [None, size])
        if tiles is not None and tiles.width_tile > 1:
            _, pixel = schedule.split(rows[1], [None, tiles.width_tile])
            schedule.unroll(pixel)
        parallelise(schedule, [batch, band])
    else:
        parallelise(schedule, [batch])
    if (extent(schedule, last_word) or WORD) <= _UNROLLED_WORDS:
        schedule.unroll(last_word)


def write_border(kernel: Kernel, pack: Pack) -> None:
    """Put the loops that write the zeros of the border in front; the last step of a rule."""
    if not any(pack.pad) and pack.used is None:
        return
    schedule = kernel.schedule
    buffer = schedule.get(pack.words).writes[0].source
    function = schedule.mod["main"]
    root = function.body.block
    body = tirx.SeqStmt([*border(buffer, pack.pad, pack.used), root.body])
    kernel.schedule = s_tir.Schedule(IRModule({"main": with_root(function, body)}))


def _gather(
    function: tirx.PrimFunc, name: str, family: Family, overlap: bool
) -> tuple[tirx.PrimFunc, tuple[int, ...]]:
    """Replace the reduction block `name`, and the padding behind it, by gathering blocks."""
    root = function.body.block
    nests = steps_of(root.body)
    names = [innermost(nest).block.name_hint for nest in nests]
    at = names.index(name)
    realize = innermost(nests[at])
    block, shift = realize.block, None
    if overlap:
        block, shift = _overlapping(block)
        realize = s_tir.SBlockRealize(realize.iter_values, True, block)
    *axes, bit = block.iter_vars
    if bit.iter_type != tirx.IterVar.CommReduce or int(bit.dom.extent) != WORD:
        raise NotApplicable("the packing block does not sum 32 bits")
    target, pad, dead, last = find_padding(nests, at, "pack_pad")
    word_axes = [
        tirx.IterVar(axis.dom, tirx.Var(axis.var.name, "int64"), tirx.IterVar.DataPar)
        for axis in axes
    ]
    word = [axis.var for axis in word_axes]
    rename = {axis.var: var for axis, var in zip(axes, word, strict=True)}
    value, reads = _compare_words(block.body.value.b, bit.var, rename, family.word_mask)
    made, flags = [], []
    if value is None:
        buffer, flag_nest = _flags(nests[at], realize, family)
        flags, made = [buffer], [flag_nest]
        value, reads = _word_of_flags(buffer, word, family.word_mask), [element(buffer, word, WORD)]
    if shift is not None:
        value = value >> substituted(shift, rename).astype("uint32")
    where = list(word)
    if any(pad):
        where[1], where[2] = where[1] + pad[0], where[2] + pad[1]
    word_block = s_tir.SBlock(
        word_axes,
        reads,
        [element(target, where)],
        name,
        tirx.BufferStore(target, value, where),
        annotations=block.annotations,
    )
    loops = [tirx.Var(axis.var.name, "int64") for axis in axes]
    nest: tirx.Stmt = s_tir.SBlockRealize(loops, True, word_block)
    made.append(nest_of(nest, [(v, a.dom.extent) for v, a in zip(loops, axes, strict=True)]))
    nests[at:last] = made
    kept = [b for b in root.alloc_buffers if not any(b.same_as(d) for d in dead)]
    return with_root(function, sequence(nests), [*kept, *flags]), pad


def _overlapping(block: Any) -> tuple[Any, Any]:
    """A packing block without its test for the last channel, and by what a word is shifted then.

    The block as it is, and None, where there is no test or a group has less than 32 channels.
    """
    term, bit = block.body.value.b, block.iter_vars[-1].var
    if not isinstance(term, tvm.ir.Call) or not term.op.same_as(_IF_THEN_ELSE):
        return block, None
    test, inside, _ = term.args
    channels = int(test.b)  # test: channel < channels
    if channels < WORD:
        return block, None
    first = substituted(test.a, {bit: index(0)})
    shift = tirx.max(first - index(channels - WORD), index(0))
    back = {bit: bit - shift}

    def load(read: TensorLoad) -> Any:
        return tirx.BufferLoad(read.source, [substituted(each, back) for each in read.indices])

    value = block.body.value
    summed = type(value)(value.a, structural_map(inside, [(TensorLoad, load)]))
    reads = [
        tirx.BufferRegion(
            region.source,
            [Range.from_min_extent(substituted(r.min, back), r.extent) for r in region.region],
        )
        for region in block.reads
    ]
    body = tirx.BufferStore(block.body.buffer, summed, block.body.indices)
    made = s_tir.SBlock(
        block.iter_vars,
        reads,
        block.writes,
        block.name_hint,
        body,
        init=block.init,
        annotations=block.annotations,
    )
    return made, shift


def _compare_words(
    term: Any, bit: Any, rename: dict[Any, Any], word_mask: WordMask
) -> tuple[Any, list[Any]]:
    """32 comparisons at once and what they read, or (None, []) if the term is no plain comparison.

    A plain comparison is Select(x[..., word * 32 + bit] ? threshold[...], 1 << bit, 0): one bit per
    activation, and no channel beyond the last. Or its opposite, Select(.., 0, 1 << bit).
    """
    if word_mask is not WordMask.MOVMSK256:
        return None, []
    found = compared(term, bit, {**rename, bit: index(0)}, WORD)
    if found is None:
        return None, []
    condition, reads = found
    ones, zeros = (tirx.Broadcast(tirx.const(v, "int8"), WORD) for v in (-1, 0))
    chosen = (zeros, ones) if isinstance(term.true_value, tirx.IntImm) else (ones, zeros)
    return _mask256(tirx.Select(condition, *chosen)), reads


def _flags(nest: tirx.Stmt, realize: Any, family: Family) -> tuple[Any, tirx.Stmt]:
    """The buffer [..., word, 32] of flags, and the nest of the block that writes it."""
    block = realize.block
    *axes, _ = block.iter_vars
    term = block.body.value.b
    if family.flushes_subnormals:
        term = exact_comparisons(term)
    as_bytes = family.word_mask is not WordMask.OR
    flags = tirx.decl_buffer(
        [*(axis.dom.extent for axis in axes), index(WORD)],
        "uint8" if as_bytes else "uint32",
        name="pack_flags",
    )
    if as_bytes:
        ones, zero = tirx.const(255, "uint8"), tirx.const(0, "uint8")
        term = tirx.Select(term != tirx.const(0, "uint32"), ones, zero)
    where = [axis.var for axis in block.iter_vars]
    flag_block = s_tir.SBlock(
        [tirx.IterVar(axis.dom, axis.var, tirx.IterVar.DataPar) for axis in block.iter_vars],
        block.reads,
        [element(flags, where)],
        "pack_flags",
        tirx.BufferStore(flags, term, where),
    )
    new = s_tir.SBlockRealize(realize.iter_values, True, flag_block)
    return flags, _replace_innermost(nest, new)


def _word_of_flags(flags: Any, where: list[Any], word_mask: WordMask) -> Any:
    """The expression that gathers 32 lanes of `flags` into a uint32."""

    def lanes(first: int, count: int) -> Any:
        return tirx.BufferLoad(flags, [*where, ramp(index(first), count)])

    if word_mask in (WordMask.ADDP, WordMask.VPADD):
        return _add_across(lanes, word_mask)
    if word_mask is WordMask.MOVMSK256:
        return _mask256(lanes(0, 32).astype("int8x32"))
    if word_mask is WordMask.MOVMSK128:
        half = [
            tirx.call_llvm_pure_intrin(
                "int32", "llvm.x86.sse2.pmovmskb.128", lanes(first, 16).astype("int8x16")
            ).astype("uint32")
            for first in (0, 16)
        ]
        return half[0] | (half[1] << tirx.const(16, "uint32"))
    return tirx.call_llvm_pure_intrin("uint32", "llvm.vector.reduce.or.v32i32", lanes(0, 32))


def _add_across(lanes: Any, instruction: WordMask) -> Any:
    """32 bytes of ones or zeros -> the word whose bit i is that of byte i."""
    width, intrinsic = {
        WordMask.ADDP: (16, "llvm.aarch64.neon.addp"),
        WordMask.VPADD: (8, "llvm.arm.neon.vpadd"),
    }[instruction]

    def pairs(a: Any, b: Any) -> Any:
        return tirx.call_llvm_pure_intrin(f"uint8x{width}", intrinsic, a, b)

    place = tirx.const(0x8040201008040201, "uint64")
    if width > 8:
        place = tirx.Broadcast(place, width // 8)
    bits = tirx.call_intrin(f"uint8x{width}", "tirx.reinterpret", place)
    parts = [lanes(first, width) & bits for first in range(0, WORD, width)]
    while len(parts) > 1:
        parts = [pairs(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    (sums,) = parts
    for _ in range({16: 2, 8: 1}[width]):
        sums = pairs(sums, sums)
    words = tirx.call_intrin(f"uint32x{width // 4}", "tirx.reinterpret", sums)
    return tirx.Shuffle([words], [0])


def _mask256(lanes: Any) -> Any:
    """The top bits of 32 bytes as a word."""
    return tirx.call_llvm_pure_intrin("int32", "llvm.x86.avx2.pmovmskb", lanes).astype("uint32")


def _replace_innermost(nest: Any, realize: Any) -> Any:
    if not isinstance(nest, tirx.For):
        return realize
    return tirx.For(
        nest.loop_var, nest.min, nest.extent, nest.kind, _replace_innermost(nest.body, realize)
    )
