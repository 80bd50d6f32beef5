"""Comparisons with thresholds, as vectors of neighbouring channels."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir import Range
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

from tvm_insta.schedules.base import collect
from tvm_insta.schedules.generic.loops import index, ramp


def compared(
    term: Any, channel: Any, values: dict[Any, Any], lanes: int
) -> tuple[Any, list[Any]] | None:
    """A comparison of `lanes` neighbouring channels at once, and what it reads.

    Args:
        term: Select(x[..., channel] ? threshold[...], .., ..), for one channel. Either side may be
            stored in a narrower type, and the two may be exchanged.
        channel: the variable that counts channels.
        values: what the variables of `term` become; the channel the first of the vector.
        lanes: channels of the vector.

    Returns:
        The condition as a vector and the regions of its loads, or None if the term is no plain
        comparison of tensors.
    """
    if not isinstance(term, tirx.Select):
        return None
    kind = type(term.condition)
    if kind not in (tirx.LT, tirx.LE, tirx.GT, tirx.GE):
        return None
    sides, reads = [], []
    for side in (term.condition.a, term.condition.b):
        load = side.value if isinstance(side, tirx.Cast) else side
        if not isinstance(load, TensorLoad):
            return None
        first = [substituted(i, values) for i in load.indices]
        if any(v.same_as(channel) for v in collect(load.indices[-1], tirx.Var)):
            vector = [*first[:-1], ramp(first[-1], lanes)]
            loaded = tirx.BufferLoad(load.source, vector)
            reads.append(element(load.source, first[:-1], (first[-1], lanes)))
        else:
            loaded = tirx.Broadcast(tirx.BufferLoad(load.source, first), lanes)
            reads.append(element(load.source, first))
        sides.append(loaded if load is side else loaded.astype(f"{side.ty.dtype}x{lanes}"))
    return kind(*sides), reads


def substituted(expr: Any, values: dict[Any, Any]) -> Any:
    """The expression with some variables replaced, simplified."""
    new = structural_map(expr, [(tirx.Var, lambda variable: values.get(variable, variable))])
    return tvm.sym.Analyzer().simplify(new)


def element(buffer: Any, where: list[Any], last: Any = None) -> Any:
    """The element of `buffer` at `where`; `last`: extent, or first and extent, of one axis more."""
    ranges = [Range.from_min_extent(i, index(1)) for i in where]
    if last is not None:
        first, size = last if isinstance(last, tuple) else (index(0), last)
        ranges.append(Range.from_min_extent(first, index(size)))
    return tirx.BufferRegion(buffer, ranges)
