"""Loops, blocks and indices for rules that write a part of a function by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx
from tvm.ir import Range


@dataclass
class Loop:
    """A loop to be put around a statement."""

    extent: Any
    name: str
    kind: Any = tirx.ForKind.SERIAL

    def __post_init__(self) -> None:
        """Make its variable."""
        self.var = tirx.Var(self.name, "int64")

    def around(self, body: tirx.Stmt) -> tirx.Stmt:
        """The loop with `body` in it."""
        extent = index(self.extent) if isinstance(self.extent, int) else self.extent
        return tirx.For(self.var, index(0), extent, self.kind, body)


class Axes:
    """The axes of a block: name=(extent, value)."""

    def __init__(self, **axes: tuple[Any, Any]) -> None:
        self.vars = [tirx.Var(f"v_{name}", "int64") for name in axes]
        extents = [index(e) if isinstance(e, int) else e for e, _ in axes.values()]
        self.iters = [
            tirx.IterVar(Range(index(0), extent), var, tirx.IterVar.DataPar)
            for extent, var in zip(extents, self.vars, strict=True)
        ]
        self.values = [value for _, value in axes.values()]

    def block(
        self,
        name: str,
        body: tirx.Stmt,
        reads: Sequence[Any],
        writes: Sequence[Any],
        annotations: dict[str, Any] | None = None,
    ) -> tirx.Stmt:
        """A block with these axes, where they have their values."""
        block = s_tir.SBlock(self.iters, reads, writes, name, body, annotations=annotations or {})
        return s_tir.SBlockRealize(self.values, True, block)


def index(value: int) -> Any:
    """An index constant."""
    return tirx.const(value, "int64")


def ramp(first: Any, lanes: int) -> Any:
    """`lanes` indices from `first` on."""
    return first if lanes == 1 else tirx.Ramp(first, index(1), lanes)


def sequence(steps: Sequence[tirx.Stmt]) -> tirx.Stmt:
    """One or more statements, one behind the other; TVM has no sequence of one."""
    return steps[0] if len(steps) == 1 else tirx.SeqStmt(steps)


def steps_of(body: tirx.Stmt) -> list[tirx.Stmt]:
    """The statements that `sequence` put behind each other."""
    return list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]


def innermost(nest: Any) -> Any:
    """The realisation in a perfect nest of loops, None in any other statement."""
    while isinstance(nest, tirx.For):
        nest = nest.body
    return nest if isinstance(nest, s_tir.SBlockRealize) else None


def nest_of(body: tirx.Stmt, loops: Sequence[tuple[Any, Any]]) -> tirx.Stmt:
    """Serial loops around a statement: variable and extent of each, outermost first."""
    for variable, size in reversed(loops):
        body = tirx.For(variable, index(0), size, tirx.ForKind.SERIAL, body)
    return body


def with_root(
    function: tirx.PrimFunc, body: tirx.Stmt, buffers: Sequence[Any] | None = None
) -> tirx.PrimFunc:
    """The function with another statement in its root block, and other local buffers if given."""
    root = function.body.block
    new = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        body,
        alloc_buffers=root.alloc_buffers if buffers is None else buffers,
    )
    return function.with_body(s_tir.SBlockRealize([], True, new))


def region(buffer: Any, at: Any, lanes: int) -> Any:
    """`lanes` elements of a buffer of one dimension."""
    return tirx.BufferRegion(buffer, [Range.from_min_extent(at, index(lanes))])


def whole(buffer: Any) -> Any:
    """All elements of a buffer."""
    return tirx.BufferRegion(buffer, [Range(index(0), extent) for extent in buffer.shape])
