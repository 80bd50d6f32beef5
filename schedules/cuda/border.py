"""Packing and the border around it as one sum.

`insta.threshold_pack` packs words of an image, and copies them into a larger one. A thread for each
word of the larger one computes it or leaves it 0: then nothing has to be kept between the two.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm.ir import Range
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

from tvm_insta.schedules.base import collect
from tvm_insta.schedules.generic.loops import index, innermost, steps_of, with_root


def with_border_in_sum(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with each border computed where words are packed.

    Args:
        function: not scheduled yet; one without a border stays as it is.
    """
    nests = steps_of(function.body.block.body)
    realised = [innermost(nest) for nest in nests]
    made, gone = list(nests), []
    for at, pad in enumerate(realised):
        if pad is None or "pad" not in pad.block.annotations:
            continue
        packed = [region.source for region in pad.block.reads]
        makers = [
            number
            for number, each in enumerate(realised[:at])
            if each is not None
            and str(each.block.annotations.get("schedule_rule", "")) == "insta_pack"
            and len(packed) == 1
            and each.block.writes[0].source.same_as(packed[0])
        ]
        if len(makers) == 1 and _is_read_once(realised, packed[0]):
            made[at] = _joined(nests[at], pad, realised[makers[0]])
            gone.append((makers[0], packed[0]))
    if not gone:
        return function
    kept = [nest for number, nest in enumerate(made) if number not in {g for g, _ in gone}]
    buffers = [
        buffer
        for buffer in function.body.block.alloc_buffers
        if not any(buffer.same_as(each) for _, each in gone)
    ]
    return with_root(function, tirx.SeqStmt(kept) if len(kept) > 1 else kept[0], buffers)


def _is_read_once(realised: list[Any], buffer: Any) -> bool:
    """Whether one block besides its own reads a buffer."""
    readers = [
        each
        for each in realised
        if each is None or any(region.source.same_as(buffer) for region in each.block.reads)
    ]
    own = [each for each in readers if each and each.block.writes[0].source.same_as(buffer)]
    return len(readers) - len(own) == 1


def _joined(nest: Any, pad: Any, pack: Any) -> tirx.Stmt:
    """The nest of the border with the sum of the bits in it."""
    store, update = pad.block.body, pack.block.body
    test, load = _parts(store.value)
    bit = pack.block.iter_vars[-1]
    own = [axis.var for axis in pack.block.iter_vars[:-1]]
    places = dict(zip(own, load.indices, strict=True))

    def moved(node: Any) -> Any:
        return structural_map(node, [(tirx.Var, lambda var: places.get(var, var))])

    zero = tirx.const(0, "uint32")
    total = tirx.BufferLoad(store.buffer, store.indices)
    value = total + tirx.if_then_else(test, moved(update.value.b), zero)
    reads = [
        tirx.BufferRegion(
            region.source, [Range.from_min_extent(moved(r.min), r.extent) for r in region.region]
        )
        for region in pack.block.reads
        if not region.source.same_as(update.buffer)
    ]
    block = s_tir.SBlock(
        [*pad.block.iter_vars, bit],
        reads,
        pad.block.writes,
        pack.block.name_hint,
        tirx.BufferStore(store.buffer, value, store.indices),
        init=tirx.BufferStore(store.buffer, zero, store.indices),
        annotations={"schedule_rule": "insta_pack"},
    )
    variable = tirx.Var("bit", bit.var.ty)
    realize: Any = s_tir.SBlockRealize([*pad.iter_values, variable], True, block)
    inner = tirx.For(variable, index(0), bit.dom.extent, tirx.ForKind.SERIAL, realize)
    return _around(nest, inner)


def _parts(value: Any) -> tuple[Any, Any]:
    """The condition and the load of ``if_then_else(inside, packed[...], 0)``."""
    (load,) = collect(value, TensorLoad)
    return value.args[0], load


def _around(nest: Any, body: tirx.Stmt) -> tirx.Stmt:
    """The loops of a nest around another body."""
    if not isinstance(nest, tirx.For):
        return body
    return tirx.For(nest.loop_var, nest.min, nest.extent, nest.kind, _around(nest.body, body))
