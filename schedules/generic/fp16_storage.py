"""Functions whose images lie in memory as float16, and are computed in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad, TensorRegion
from tvm_ffi import structural_map

from tvm_insta.schedules.base import collect
from tvm_insta.schedules.generic.kinds import FLOAT_CONVOLUTIONS
from tvm_insta.schedules.generic.loops import Axes, Loop, steps_of, with_root

_SUMS = "moment_rows"


def may_be_half(function: tirx.PrimFunc, parameter: int) -> bool:
    """Whether one block writes a parameter of a function, and that holds no sums of rows."""
    buffer = function.params[parameter]
    written = [b.name_hint for b in _blocks(function) if _among(buffer, b.writes)]
    return len(written) == 1 and written[0] != _SUMS


def read_by_float_convolution(function: tirx.PrimFunc) -> set[Any]:
    """The parameters that blocks up to a float convolution read."""
    found: set[Any] = set()
    read: set[Any] = set()
    for block in _blocks(function):
        read |= {region.source for region in block.reads}
        if str(block.annotations.get("schedule_rule", "")) in FLOAT_CONVOLUTIONS:
            found |= read
    return found


def with_halves(function: tirx.PrimFunc, halves: list[int], arguments: int) -> tirx.PrimFunc:
    """A function with some of its float32 parameters in float16.

    What is stored in one is rounded first, in a block of its own; the other blocks of the function,
    and those that read an argument, widen what they load.

    Args:
        function: legalised and fused, not scheduled yet.
        halves: numbers of the parameters.
        arguments: how many parameters are read; the others are written.
    """
    params = list(function.params)
    stored = {at: tirx.decl_buffer(params[at].shape, "float16", params[at].name) for at in halves}
    loaded = {params[at]: stored[at] for at in halves}
    root = function.body.block
    nests = steps_of(root.body)
    wide: list[Any] = []
    made: list[tirx.Stmt] = []
    for nest in nests:
        (block,) = collect(nest, s_tir.SBlock)
        written = [at for at in halves if at >= arguments and _among(params[at], block.writes)]
        own = {
            params[at]: tirx.decl_buffer(params[at].shape, "float32", f"{params[at].name}_wide")
            for at in written
        }
        wide += own.values()
        made.append(_rename(nest, own, loaded))
        made += [_rounded(own[params[at]], stored[at]) for at in written]
    body = made[0] if len(made) == 1 else tirx.SeqStmt(made)
    new = with_root(function, body, [*root.alloc_buffers, *wide])
    params = [stored.get(at, param) for at, param in enumerate(params)]
    return tirx.PrimFunc(params, new.body, function.ret_type, attrs=function.attrs)


def _rename(nest: Any, own: dict[Any, Any], loaded: dict[Any, Any]) -> Any:
    """A nest that writes and reads the buffers `own` instead, and widens what it loads."""

    def load(node: Any) -> Any:
        if node.source in own:
            return tirx.BufferLoad(own[node.source], node.indices)
        if node.source in loaded:
            return tirx.BufferLoad(loaded[node.source], node.indices).astype("float32")
        return node

    def store(node: Any) -> Any:
        if node.buffer not in own:
            return node
        return tirx.BufferStore(own[node.buffer], node.value, node.indices)

    def region(node: Any) -> Any:
        new = own.get(node.source, loaded.get(node.source))
        return node if new is None else tirx.BufferRegion(new, node.region)

    for kind, change in ((TensorLoad, load), (tirx.BufferStore, store), (TensorRegion, region)):
        nest = structural_map(nest, [(kind, change)])
    return nest


def _rounded(wide: Any, half: Any) -> tirx.Stmt:
    """The nest that stores `wide` in `half`."""
    loops = [Loop(extent, f"h{at}") for at, extent in enumerate(wide.shape)]
    axes = Axes(**{f"h{at}": (loop.extent, loop.var) for at, loop in enumerate(loops)})
    value = tirx.BufferLoad(wide, axes.vars).astype("float16")
    here = [_one(v) for v in axes.vars]
    reads, writes = [tirx.BufferRegion(wide, here)], [tirx.BufferRegion(half, here)]
    nest = axes.block("half", tirx.BufferStore(half, value, axes.vars), reads, writes)
    for loop in reversed(loops):
        nest = loop.around(nest)
    return nest


def _one(at: Any) -> Any:
    return tvm.ir.Range.from_min_extent(at, tirx.const(1, "int64"))


def _blocks(function: tirx.PrimFunc) -> Iterator[Any]:
    """The blocks of a function in order, but for its root."""
    yield from collect(function.body.block.body, s_tir.SBlock)


def _among(buffer: Any, regions: Any) -> bool:
    return any(region.source.same_as(buffer) for region in regions)
