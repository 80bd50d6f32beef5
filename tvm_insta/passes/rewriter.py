"""Rebuilding ``main`` binding by binding: the one way in which our graph passes change a module.

The front end leaves a single dataflow block in static single assignment form. A pass visits its
bindings in order and says what each becomes; names, constants and tuple items resolve by
themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst, Op, Tuple

from tvm_insta.errors import ImportModelError

Expr = Any  # tvm.ir expressions carry no type information for mypy
Array = npt.NDArray[Any]


class Rewriter:
    """Base of the graph passes: override `visit`.

    Attributes:
        env: what each variable of the old function became: an expression of the new one.
        calls: how each variable of the new function is computed, where by a call.
        builder: the Relax block builder in use; its analyzer proves facts about symbolic shapes.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.builder = relax.BlockBuilder()
        self.env: dict[Expr, Expr] = {}
        self.calls: dict[Expr, Call] = {}

    def visit(self, call: Call) -> Expr:
        """Return what stands for ``call``, whose arguments are already new expressions."""
        return call

    def finish(self, result: Expr) -> Expr:
        """Return what ``main`` returns, given the new expression of its old result."""
        return result

    def run(self) -> tvm.IRModule:
        """Rebuild ``main``; the new module is free of dead bindings and of equal expressions."""
        function = self.mod["main"]
        params = list(function.params)
        self.env = {param: param for param in params}
        attrs = {key: value for key, value in (function.attrs or {}).items()}
        attrs.pop("global_symbol", None)
        with self.builder.function("main", params, attrs=attrs or None):
            with self.builder.dataflow():
                for block in function.body.blocks:
                    for binding in block.bindings:
                        self.bind(binding)
                result = self.finish(self.new(function.body.body))
                output = self.builder.emit_output(result)
            self.builder.emit_func_output(output)
        transform = relax.transform
        clean = tvm.transform.Sequential(
            [transform.DeadCodeElimination(), transform.EliminateCommonSubexpr()]
        )
        return clean(self.builder.get())

    def bind(self, binding: Expr) -> None:
        """Translate one binding."""
        if not isinstance(binding, relax.VarBinding):
            raise ImportModelError(
                f"got a {type(binding).__name__} in the imported graph, but only plain bindings "
                "can be compiled: remove data-dependent shapes from the model"
            )
        value = self.new(binding.value)
        if isinstance(value, Call):
            value = self.visit(value)
        if isinstance(value, Call):
            value = self.emit(value)
        self.env[binding.var] = value

    def new(self, expr: Expr) -> Expr:
        """The new expression for an old one, with variables, tuples and tuple items resolved."""
        if isinstance(expr, relax.Var):
            return self.env.get(expr, expr)
        if isinstance(expr, Tuple):
            return relax.Tuple([self.new(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            source = self.new(expr.tuple_value)
            if isinstance(source, Tuple):
                return source.fields[expr.index]
            return self.builder.emit(relax.TupleGetItem(source, expr.index))
        if isinstance(expr, Call):
            return Call(expr.op, [self.new(arg) for arg in expr.args], expr.attrs, expr.ty_args)
        return expr

    def emit(self, expr: Expr) -> Expr:
        """Bind ``expr`` to a fresh variable."""
        var = self.builder.emit(expr)
        if isinstance(expr, Call):
            self.calls[var] = expr
        return var


def read_twice(mod: tvm.IRModule) -> set[Expr]:
    """The variables of ``main`` with more than one reader; its result is one."""
    function = mod["main"]
    readers: Counter[Expr] = Counter([function.body.body])
    for block in function.body.blocks:
        for binding in block.bindings:
            readers.update(variables(binding.value))
    return {var for var, count in readers.items() if count > 1}


def variables(value: Expr) -> list[Expr]:
    """The variables that an expression reads, each as often as it does."""
    found: list[Expr] = []
    relax.analysis.post_order_visit(
        value, lambda expr: found.append(expr) if isinstance(expr, relax.Var) else None
    )
    return found


def op_name(expr: Expr) -> str:
    """The operator's name of a call, "" for anything else."""
    return str(expr.op.name) if isinstance(expr, Call) and isinstance(expr.op, Op) else ""


def array(expr: Expr) -> Array | None:
    """The value of a constant, None for anything else."""
    return expr.value.numpy() if isinstance(expr, GenericConst) else None


def scalar(expr: Expr) -> float | None:
    """The value of a constant with one element, None for anything else."""
    value = array(expr)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def const(value: npt.ArrayLike, dtype: str = "float32") -> Expr:
    """A Relax constant."""
    return relax.const(np.ascontiguousarray(np.asarray(value, dtype=dtype)), dtype)


def shape_of(expr: Expr) -> list[Any]:
    """Shape of a tensor expression: ints, and a symbolic variable for the batch."""
    return [int(dim) if hasattr(dim, "value") else dim for dim in expr.ty.shape.values]


def dtype_of(expr: Expr) -> str:
    """Element type of a tensor expression."""
    return str(expr.ty.dtype.dtype)


def rank(expr: Expr) -> int:
    """Number of dimensions of a tensor expression, -1 when it is not a tensor."""
    return int(expr.ty.ndim) if isinstance(expr.ty, relax.TensorType) else -1


def ints(values: Sequence[Any]) -> list[int]:
    """An attribute's list of integers as Python ints."""
    return [int(value) for value in values]


def names(values: Sequence[Any]) -> list[str]:
    """An attribute's list of strings as Python strings."""
    return [str(value) for value in values]
