"""The rule of `insta.threshold_pack` ("insta_pack"): 32 comparisons become one word.

The operator sums shifted bits, 32 dependent steps per word. The rule replaces the sum by two blocks
that mean the same, because every term is 0 or a bit of its own:

    pack_flags[..., word, bit] = the term of this bit, as a lane of a vector
    threshold_pack[..., word]  = the 32 lanes gathered into a word

On x86 and Arm a lane is a byte of ones or zeros. x86's `pmovmskb` gathers the top bits of 32 (or
16) bytes; on NEON byte i keeps bit i % 8, and three pairwise additions make a byte of each eight.
Elsewhere a lane is the shifted bit itself and an OR across the lanes gathers them. The comparison
means what it did, so NaN, infinities, -0.0 and ties come out as the operator defines them; but
where vector instructions take subnormal numbers for zero, it is done on integers.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm.ir import IRModule, Range

from .common import (
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    band_height,
    blocks,
    extent,
    is_output,
    name_of,
    parallelise,
    rule_of,
    vectorise_last,
)
from .exact import exact_comparisons

_WORD = 32

# Words of a pixel that are packed without a loop between them.
_UNROLLED_WORDS = 4


def schedule_pack(kernel: Kernel) -> tuple[str, ConvTiles | None]:
    """Schedule a function that holds the block of `insta.threshold_pack`."""
    found = [
        name_of(kernel.schedule, block)
        for block in blocks(kernel.schedule)
        if rule_of(kernel.schedule, block) == "insta_pack"
    ]
    if not found:
        raise NotApplicable
    if len(found) > 1:
        raise NotApplicable(f"{len(found)} packing blocks")
    (name,) = found
    function = _gather_flags(kernel.schedule.mod["main"], name, kernel.family)
    schedule = kernel.schedule = s_tir.Schedule(IRModule({"main": function}))
    flags, words = schedule.get_sblock("pack_flags"), schedule.get_sblock(name)
    for block in blocks(schedule):
        if name_of(schedule, block) == "pack_flags":
            break
        schedule.compute_inline(block)

    head = words
    last = blocks(schedule)[-1]
    if name_of(schedule, last) == "pack_pad":
        zeros = schedule.decompose_padding(last, schedule.get_loops(last)[0])
        schedule.compute_at(words, schedule.get_loops(last)[-1], preserve_unit_loops=True)
        schedule.set_scope(words, 0, "local")
        vectorise_last(schedule, [schedule.fuse(*schedule.get_loops(zeros)[1:])], kernel.lanes)
        head = last
    elif not is_output(schedule, words):
        raise NotApplicable("a block behind the packing")
    loops = schedule.get_loops(head)
    schedule.compute_at(flags, schedule.get_loops(words)[-1], preserve_unit_loops=True)
    schedule.set_scope(flags, 0, "local")
    batch, *rows, last_word = loops
    if rows:
        height = extent(schedule, rows[0])
        band, _ = schedule.split(rows[0], [None, band_height(height, 1) if height else 1])
        parallelise(schedule, [batch, band])
    else:
        parallelise(schedule, [batch])
    if (extent(schedule, last_word) or _WORD) <= _UNROLLED_WORDS:
        schedule.unroll(last_word)
    schedule.vectorize(schedule.get_loops(flags)[-1])
    return "insta_pack", None


def _gather_flags(function: tirx.PrimFunc, name: str, family: Family) -> tirx.PrimFunc:
    """Replace the reduction block `name` by the blocks "pack_flags" and `name`."""
    root = function.body.block
    nests = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else [root.body]
    at = next(i for i, nest in enumerate(nests) if _innermost(nest).block.name_hint == name)
    realize = _innermost(nests[at])
    block = realize.block
    *axes, bit = block.iter_vars
    if bit.iter_type != tirx.IterVar.CommReduce or int(bit.dom.extent) != _WORD:
        raise NotApplicable("the packing block does not sum 32 bits")
    term = block.body.value.b
    if family.flushes_subnormals:
        term = exact_comparisons(term)

    word_mask = family.word_mask
    as_bytes = word_mask != "or"
    flags = tirx.decl_buffer(
        [*(axis.dom.extent for axis in axes), _index(_WORD)],
        "uint8" if as_bytes else "uint32",
        name="pack_flags",
    )
    if as_bytes:
        ones, zero = tirx.const(255, "uint8"), tirx.const(0, "uint8")
        term = tirx.Select(term != tirx.const(0, "uint32"), ones, zero)
    index = [axis.var for axis in block.iter_vars]
    flag_block = s_tir.SBlock(
        [tirx.IterVar(axis.dom, axis.var, tirx.IterVar.DataPar) for axis in block.iter_vars],
        block.reads,
        [_region(flags, index)],
        "pack_flags",
        tirx.BufferStore(flags, term, index),
    )

    word_axes = [
        tirx.IterVar(axis.dom, tirx.Var(axis.var.name, "int64"), tirx.IterVar.DataPar)
        for axis in axes
    ]
    word = [axis.var for axis in word_axes]
    packed = block.writes[0].source
    word_block = s_tir.SBlock(
        word_axes,
        [_region(flags, word, _WORD)],
        [_region(packed, word)],
        name,
        tirx.BufferStore(packed, _word(flags, word, word_mask), word),
        annotations=block.annotations,
    )
    loop_vars = [tirx.Var(axis.var.name, "int64") for axis in axes]
    word_nest: tirx.Stmt = s_tir.SBlockRealize(loop_vars, True, word_block)
    for variable, axis in reversed(list(zip(loop_vars, axes, strict=True))):
        word_nest = tirx.For(variable, _index(0), axis.dom.extent, tirx.ForKind.SERIAL, word_nest)
    flag_nest = _replace_innermost(
        nests[at], s_tir.SBlockRealize(realize.iter_values, True, flag_block)
    )
    nests[at : at + 1] = [flag_nest, word_nest]
    new_root = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        tirx.SeqStmt(nests),
        alloc_buffers=[*root.alloc_buffers, flags],
    )
    return function.with_body(s_tir.SBlockRealize([], True, new_root))


def _word(flags: Any, index: list[Any], word_mask: str) -> Any:
    """The expression that gathers 32 lanes of `flags` into a uint32."""

    def lanes(first: int, count: int) -> Any:
        return tirx.BufferLoad(flags, [*index, tirx.Ramp(_index(first), _index(1), count)])

    def mask(first: int, count: int, intrinsic: str) -> Any:
        vector = lanes(first, count).astype(f"int8x{count}")
        return tirx.call_llvm_pure_intrin("int32", intrinsic, vector).astype("uint32")

    if word_mask in ("addp", "vpadd"):
        return _add_across(lanes, word_mask)
    if word_mask == "movmsk256":
        return mask(0, 32, "llvm.x86.avx2.pmovmskb")
    if word_mask == "movmsk128":
        half = "llvm.x86.sse2.pmovmskb.128"
        return mask(0, 16, half) | (mask(16, 16, half) << tirx.const(16, "uint32"))
    return tirx.call_llvm_pure_intrin("uint32", "llvm.vector.reduce.or.v32i32", lanes(0, 32))


def _add_across(lanes: Any, instruction: str) -> Any:
    """32 bytes of ones or zeros -> the word whose bit i is that of byte i."""
    width, intrinsic = {
        "addp": (16, "llvm.aarch64.neon.addp"),
        "vpadd": (8, "llvm.arm.neon.vpadd"),
    }[instruction]

    def pairs(a: Any, b: Any) -> Any:
        return tirx.call_llvm_pure_intrin(f"uint8x{width}", intrinsic, a, b)

    place = tirx.const(0x8040201008040201, "uint64")
    if width > 8:
        place = tirx.Broadcast(place, width // 8)
    bits = tirx.call_intrin(f"uint8x{width}", "tirx.reinterpret", place)
    parts = [lanes(first, width) & bits for first in range(0, _WORD, width)]
    while len(parts) > 1:
        parts = [pairs(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    (sums,) = parts
    for _ in range({16: 2, 8: 1}[width]):
        sums = pairs(sums, sums)
    words = tirx.call_intrin(f"uint32x{width // 4}", "tirx.reinterpret", sums)
    return tirx.Shuffle([words], [0])


def _index(value: int) -> Any:
    return tirx.const(value, "int64")


def _region(buffer: Any, index: list[Any], last: int | None = None) -> Any:
    """The element of `buffer` at `index`, or `last` elements along one axis more."""
    ranges = [Range.from_min_extent(i, _index(1)) for i in index]
    if last is not None:
        ranges.append(Range.from_min_extent(_index(0), _index(last)))
    return tirx.BufferRegion(buffer, ranges)


def _innermost(nest: Any) -> Any:
    """The block realisation inside a perfect loop nest."""
    while isinstance(nest, tirx.For):
        nest = nest.body
    return nest


def _replace_innermost(nest: Any, realize: Any) -> Any:
    if not isinstance(nest, tirx.For):
        return realize
    return tirx.For(
        nest.loop_var, nest.min, nest.extent, nest.kind, _replace_innermost(nest.body, realize)
    )
