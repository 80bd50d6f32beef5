"""Symbolic sizes: what PyTorch writes with sympy becomes expressions of Relax's batch variable."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
import tvm
from torch import fx
from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

from tvm_insta.errors import ImportModelError

_FLOOR_DIVISIONS = (FloorDiv,)
_REMAINDERS = (Mod, PythonMod)


def shape_in_relax(shape: Sequence[Any], graph: fx.Graph, env: Mapping[fx.Node, Any]) -> list[Any]:
    """A fake tensor's shape: ints, and expressions of the inputs' dimensions.

    Raises:
        ImportModelError: a size depends on the values of the input.
    """
    known: dict[str, Any] = {}
    for node in graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and node in env:
            for dim, own in zip(value.shape, env[node].ty.shape.values, strict=True):
                if isinstance(dim, torch.SymInt) and isinstance(dim.node.expr, sympy.Symbol):
                    known.setdefault(str(dim.node.expr), own)
    return [_dim(dim, known) for dim in shape]


def _dim(dim: Any, known: Mapping[str, Any]) -> Any:
    if not isinstance(dim, torch.SymInt):
        return int(dim)
    return _expression(dim.node.expr, known)


def _expression(expr: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(expr, sympy.Integer):
        return int(expr)
    if isinstance(expr, sympy.Symbol) and str(expr) in known:
        return known[str(expr)]
    parts = [_expression(arg, known) for arg in expr.args]
    if isinstance(expr, sympy.Add):
        return reduce(operator.add, parts)
    if isinstance(expr, sympy.Mul):
        return reduce(operator.mul, parts)
    if isinstance(expr, _FLOOR_DIVISIONS):
        return tvm.tirx.floordiv(*parts)
    if isinstance(expr, _REMAINDERS):
        return tvm.tirx.floormod(*parts)
    raise ImportModelError(
        f"a tensor has the size {expr}, which depends on more than the batch: give the dimensions "
        "beside the batch fixed sizes, and compute no shape from values"
    )


def _plain(function: Callable[..., Any]) -> Callable[[fx.Node, Any], Any]:
    def convert(node: fx.Node, importer: Any) -> Any:
        args = [importer.env[arg] if isinstance(arg, fx.Node) else arg for arg in node.args]
        return function(*args)

    return convert


SYMBOLIC: dict[Callable[..., Any], Callable[[fx.Node, Any], Any]] = {
    operator.add: _plain(operator.add),
    operator.sub: _plain(operator.sub),
    operator.mul: _plain(operator.mul),
    operator.neg: _plain(operator.neg),
    operator.floordiv: _plain(tvm.tirx.floordiv),
    operator.mod: _plain(tvm.tirx.floormod),
    operator.getitem: _plain(operator.getitem),
}
"""Python's operators on sizes, and items of tuples."""
