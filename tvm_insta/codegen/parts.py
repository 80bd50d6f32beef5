"""Cut a kernel where its parallel loops begin and end, so that a thread pool can run them.

A kernel whose parallel loops stand at its top level becomes several functions: a serial part runs
once, a parallel part runs the iterations `begin` to `end` of its loop, on any thread. Parts run in
order, and a part begins when the one before it has ended. Every thread executes the same machine
code for an iteration, whatever the number of threads: so results do not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

_RANGE = "int32"


@dataclass(frozen=True)
class Part:
    """One function of a kernel.

    Attributes:
        symbol: its name, without the model's prefix.
        extent: iterations of its parallel loop; None for a serial part. The function then takes
            `begin` and `end` behind its pointers, both int32.
    """

    symbol: str
    extent: int | None = None


@dataclass(frozen=True)
class Cut:
    """A part before code generation.

    Attributes:
        statements: what it does; names of arrays of the kernel's own level are free in it.
        bounds: the variables `begin` and `end`, empty for a serial part.
        extent: see `Part`.
    """

    statements: tuple[tirx.Stmt, ...]
    bounds: tuple[tirx.Var, ...] = ()
    extent: int | None = None


def cut(body: tirx.Stmt) -> tuple[list[tirx.Stmt], list[Cut]]:
    """Cut the body of a lowered kernel.

    Returns:
        What the kernel declares and allocates at its own level, in order, and the parts in order.
        A parallel loop deeper inside becomes a serial one.
    """
    prelude: list[tirx.Stmt] = []
    steps: list[tirx.Stmt] = []
    for statement in _flat(body):
        declares = isinstance(statement, tirx.DeclBuffer | tirx.AllocBuffer)
        (prelude if declares else steps).append(statement)
    cuts: list[Cut] = []
    if any(isinstance(step, tirx.Bind) for step in steps):
        # A value computed between two loops would have to outlive its function.
        return prelude, [Cut(tuple(serial(step) for step in steps))]
    waiting: list[tirx.Stmt] = []
    for step in steps:
        if not _is_parallel(step):
            waiting.append(serial(step))
            continue
        if waiting:
            cuts.append(Cut(tuple(waiting)))
            waiting = []
        cuts.append(_ranged(step))
    if waiting or not cuts:
        cuts.append(Cut(tuple(waiting)))
    return prelude, cuts


def serial(node: Any) -> Any:
    """A statement or function with serial loops in place of parallel ones."""

    def loop(node: tirx.For) -> tirx.For:
        return _loop(node, node.min, node.extent) if node.kind == tirx.ForKind.PARALLEL else node

    return tvm_ffi.structural_map(node, [(tirx.For, loop)])


def needed(prelude: Sequence[tirx.Stmt], steps: Sequence[tirx.Stmt]) -> list[int]:
    """Which statements of a prelude some steps need, by number: a view needs what it views."""
    found: list[int] = []
    names = [var for step in steps for var in _variables(step)]
    for number in reversed(range(len(prelude))):
        statement = prelude[number]
        if any(var.same_as(statement.buffer) for var in names):
            found.append(number)
            if isinstance(statement, tirx.DeclBuffer):
                names += _variables(statement.data)
    return sorted(found)


def _variables(node: Any) -> list[tirx.Var]:
    found: list[tirx.Var] = []
    tvm_ffi.structural_walk(node, (tirx.Var, found.append))
    return found


def _flat(body: tirx.Stmt) -> list[tirx.Stmt]:
    if isinstance(body, tirx.SeqStmt):
        return [inner for statement in body.seq for inner in _flat(statement)]
    return [body]


def _is_parallel(step: tirx.Stmt) -> bool:
    return (
        isinstance(step, tirx.For)
        and step.kind == tirx.ForKind.PARALLEL
        and isinstance(step.extent, tirx.IntImm)
        and isinstance(step.min, tirx.IntImm)
        and int(step.min) == 0
        and step.step is None
        and 1 < int(step.extent) < 2**31
    )


def _ranged(step: tirx.For) -> Cut:
    begin, end = tirx.Var("begin", _RANGE), tirx.Var("end", _RANGE)
    kind = str(step.loop_var.ty.dtype)
    first, behind = (tirx.Cast(kind, v) if kind != _RANGE else v for v in (begin, end))
    body = _loop(serial(step), first, behind - first)
    return Cut((body,), (begin, end), int(step.extent))


def _loop(node: tirx.For, start: tvm.ir.Expr, extent: tvm.ir.Expr) -> tirx.For:
    return tirx.For(
        node.loop_var,
        start,
        extent,
        tirx.ForKind.SERIAL,
        node.body,
        node.thread_binding,
        node.annotations,
        node.step,
    )
