"""The inner step of a binary convolution on NEON, written out: xor, then count, then add.

TVM's primitives cannot say what matters here: which instruction adds, in which order the pixels of
a tile take their turns, and that words are read as bytes. `write_stages` and `read_units` rewrite a
scheduled function for that; they change no value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx
from tvm.ir import Call, Range
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

from tvm_insta.schedules.base import collect
from tvm_insta.schedules.generic.loops import index, ramp, with_root

VECTOR_BYTES = 16

STEPS = "insta.steps"
"""Note on a loop, see `end_steps`."""

_PIECE_AXES = 5  # of the block "bconv_pieces": image, row, column, unit, piece


@dataclass(frozen=True)
class Step:
    """How one vector of xor-ed pieces enters its sums.

    Attributes:
        piece: dtype of a lane of the weight: "uint8", "uint16" or "uint32".
        total: dtype of a sum.
        add: (sums, counts of the 16 bytes) -> new sums, as vectors.
        starts: whether the first counts are the first sums, so that no zero is needed.
    """

    piece: str
    total: str
    add: Callable[[Any, Any], Any]
    starts: bool = False

    @property
    def lanes(self) -> int:
        """Output channels of a vector."""
        return VECTOR_BYTES // self.piece_bytes

    @property
    def piece_bytes(self) -> int:
        """Bytes of a lane of the weight."""
        return int(self.piece.removeprefix("uint")) // 8


def _add_bytes(sums: Any, counts: Any) -> Any:
    # LLVM regroups plain additions into sums of counts, and then holds so many counts that sums go
    # to the stack. It leaves this instruction alone, which costs the same; nothing ever saturates.
    return tirx.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.usqadd", sums, counts)


def _add_pairs(sums: Any, counts: Any) -> Any:
    return tirx.call_llvm_pure_intrin("uint16x8", "llvm.arm.neon.vpadalu", sums, counts)


def _add_quads(sums: Any, counts: Any) -> Any:
    ones = tirx.Broadcast(tirx.const(1, "uint8"), VECTOR_BYTES)
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.udot", sums, counts, ones)


BYTES = Step("uint8", "uint8", _add_bytes, starts=True)
PAIRS = Step("uint16", "uint16", _add_pairs)
DOT = Step("uint32", "int32", _add_quads)


def write_stages(function: tirx.PrimFunc, name: str, step: Step) -> tirx.PrimFunc:
    """Write block `name`, which adds a popcount of a xor, as three loops over the pixels of a tile.

    An in-order core waits where an instruction needs the result of the one before it. LLVM moves
    instructions, but keeps most of this order.

    Args:
        function: the scheduled function; around the block are an unrolled loop over pixels and in
            it the loop over the lanes of one vector.
        name: of the block.
        step: what is added, and how.
    """
    made: list[Any] = []

    def split(loop: tirx.For) -> Any:
        lane = loop.body
        if not isinstance(lane, tirx.For) or not isinstance(lane.body, s_tir.SBlockRealize):
            return loop
        if lane.body.block.name_hint != name:
            return loop
        store = lane.body.block.body
        if not made:
            *outer, out = store.buffer.shape
            sizes = {"differ": (step.piece, out), "count": ("uint8", out * step.piece_bytes)}
            made.extend(
                tirx.decl_buffer([*outer, size], dtype, name=f"bconv_{key}", scope="local")
                for key, (dtype, size) in sizes.items()
            )
        return tirx.SeqStmt(
            [_nest(loop, lane, key, part) for key, part in _parts(lane.body.block, step, *made)]
        )

    body = structural_map(function.body, [(tirx.For, split)])
    if not made:
        raise ValueError(f"no block {name} within two loops")
    root = body.block
    return with_root(function, root.body, [*root.alloc_buffers, *made])


def _parts(block: Any, step: Step, differ: Any, count: Any) -> list[tuple[str, Any]]:
    """(name, store) of the three stages; the block's last axis is the first lane of a vector."""
    store = block.body
    *pixel, out = store.indices
    (popcount,) = [c for c in _calls(store.value) if c.op.name == "tirx.popcount"]
    loads = collect(popcount.args[0], TensorLoad)
    theirs, mine = sorted(loads, key=lambda load: _mentions(load.indices[-1], out))
    words = tirx.Broadcast(theirs, step.lanes) ^ _vector(mine.source, mine.indices, step.lanes)
    bytes_index = [*pixel, out * index(step.piece_bytes)]
    xored = _vector(differ, [*pixel, out], step.lanes)
    if step.piece_bytes > 1:
        xored = tirx.call_intrin(f"uint8x{VECTOR_BYTES}", "tirx.reinterpret", xored)
    counts = _vector(count, bytes_index, VECTOR_BYTES)
    value = step.add(_vector(store.buffer, store.indices, step.lanes), counts)
    if step.starts:
        summed = [a.var for a in block.iter_vars if a.iter_type == tirx.IterVar.CommReduce]
        first = tirx.all(*(variable == index(0) for variable in summed))
        value = tirx.Select(first, counts, value)
    return [
        ("bconv_differ", _store(differ, [*pixel, out], words, step.lanes)),
        ("bconv_count", _store(count, bytes_index, tirx.popcount(xored), VECTOR_BYTES)),
        (block.name_hint, _store(store.buffer, store.indices, value, step.lanes)),
    ]


def _nest(loop: Any, lane: Any, name: str, store: Any) -> Any:
    """The pixel loop around one store of a vector, with loop and block axes of its own."""
    realize = lane.body
    axes = [
        tirx.IterVar(axis.dom, tirx.Var(axis.var.name, "int64"), axis.iter_type)
        for axis in realize.block.iter_vars
    ]
    old = [axis.var for axis in realize.block.iter_vars]
    store = _replace(store, old, [axis.var for axis in axes])
    loads = collect(store.value, TensorLoad)
    block = s_tir.SBlock(
        axes,
        [_region(load.source, load.indices) for load in loads],
        [_region(store.buffer, store.indices)],
        name,
        store,
    )
    pixel = tirx.Var(loop.loop_var.name, "int64")
    *values, predicate = (
        _replace(node, [loop.loop_var, lane.loop_var], [pixel, index(0)])
        for node in (*realize.iter_values, realize.predicate)
    )
    body = s_tir.SBlockRealize(values, predicate, block)
    return tirx.For(pixel, loop.min, loop.extent, loop.kind, body)


def read_units(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Let the block "bconv_pieces" read a unit of words as one vector of pieces.

    This is what the shifts of the operator mean where words are little-endian. It comes last,
    because TVM's primitives move only blocks that write one element.
    """

    def fetch(loop: tirx.For) -> Any:
        realize = loop.body
        if not isinstance(realize, s_tir.SBlockRealize):
            return loop
        block = realize.block
        if block.name_hint != "bconv_pieces" or len(block.iter_vars) != _PIECE_AXES:
            return loop
        pieces, data = block.writes[0].source, block.reads[0].source
        *axes, piece = block.iter_vars
        dtype, count = str(pieces.dtype), int(piece.dom.extent)
        words = count * int(dtype.removeprefix("uint")) // 32
        *pixel, at = (axis.var for axis in axes)
        loaded = _vector(data, [*pixel, at * index(words)], words)
        value = tirx.call_intrin(f"{dtype}x{count}", "tirx.reinterpret", loaded)
        store = _store(pieces, [*pixel, at, index(0)], value, count)
        vector = s_tir.SBlock(
            axes,
            [_region(data, loaded.indices)],
            [_region(pieces, store.indices)],
            block.name_hint,
            store,
        )
        return s_tir.SBlockRealize(list(realize.iter_values)[:-1], realize.predicate, vector)

    return function.with_body(structural_map(function.body, [(tirx.For, fetch)]))


def end_steps(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Let every turn of a loop that is noted as `STEPS` end before the next one begins.

    LLVM for 32-bit Arm schedules a long unrolled epilogue by kinds: all loads first, all stores
    last, and in between everything on the stack. It moves nothing across a hint, which may do
    anything for all it knows; hint 0 does nothing. A whole call of the 56x56x64 layer of ResNet-18
    takes 5 % less with one hint for eight channels.
    """

    def end(loop: tirx.For) -> Any:
        if STEPS not in (loop.annotations or {}):
            return loop
        nothing = tirx.call_llvm_intrin("void", "llvm.arm.hint", tirx.const(0, "int32"))
        body = tirx.SeqStmt([loop.body, tirx.Evaluate(nothing)])
        return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body)

    return function.with_body(structural_map(function.body, [(tirx.For, end)]))


def _vector(buffer: Any, where: Sequence[Any], lanes: int) -> Any:
    return tirx.BufferLoad(buffer, [*where[:-1], ramp(where[-1], lanes)])


def _store(buffer: Any, where: Sequence[Any], value: Any, lanes: int) -> Any:
    return tirx.BufferStore(buffer, value, [*where[:-1], ramp(where[-1], lanes)])


def _region(buffer: Any, where: Sequence[Any]) -> Any:
    """The elements at an index whose last part may be a ramp."""
    ranges = [
        Range.from_min_extent(i.base, index(int(i.lanes)))
        if isinstance(i, tirx.Ramp)
        else Range.from_min_extent(i, index(1))
        for i in where
    ]
    return tirx.BufferRegion(buffer, ranges)


def _replace(node: Any, old: Sequence[Any], new: Sequence[Any]) -> Any:
    """`node` with other expressions for some variables."""

    def variable(found: tirx.Var) -> Any:
        return next((n for o, n in zip(old, new, strict=True) if o.same_as(found)), found)

    return structural_map(node, [(tirx.Var, variable)])


def _calls(node: Any) -> list[Any]:
    return collect(node, Call)


def _mentions(index: Any, expression: Any) -> bool:
    wanted = collect(expression, tirx.Var)
    return any(v.same_as(w) for v in collect(index, tirx.Var) for w in wanted)
