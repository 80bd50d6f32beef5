"""What `fuse_consumers` sees between FuseOps and FuseTIR: calls of kernels, and who reads what."""

from __future__ import annotations

from collections import Counter
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import Call, GlobalVar

from tvm_insta.passes.labels import PACKS, Label
from tvm_insta.passes.rewriter import Expr, op_name, variables
from tvm_insta.schedules import kind_of

ROWS, MEAN = "insta.moment_rows", "insta.moment_mean"
"""Kinds of the kernels that sum rows, and that make means of the sums."""

_BROADCAST = 1
"""TVM's operator pattern up to which an element-wise kernel reads its input pixel on pixel."""

_INJECTIVE = 2
"""TVM's operator pattern up to which every element of the result is made of single elements."""


class KernelCalls:
    """The bindings of ``main``.

    Attributes:
        mod: the module.
        main: its function ``main``.
        bindings: variable -> value, in order.
        order: variable -> position of its binding.
        readers: how many bindings read a variable; the result of ``main`` counts as one.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.main = mod["main"]
        self.bindings: dict[Expr, Expr] = {
            binding.var: binding.value
            for block in self.main.body.blocks
            for binding in block.bindings
        }
        self.order = {var: at for at, var in enumerate(self.bindings)}
        self.readers: Counter[Expr] = Counter()
        for value in self.bindings.values():
            self.readers.update(variables(value))
        self.readers[self.main.body.body] += 1
        self._kinds: dict[GlobalVar, str] = {}

    def operator(self, var: Expr) -> str:
        """The operator that makes `var`, by its label; "" where there are several."""
        return operator(self.bindings[var])

    def kind(self, name: GlobalVar) -> str:
        """The kind of a kernel: that of its convolution, or element-wise if all of it is."""
        if name not in self._kinds:
            self._kinds[name] = self._find_kind(self.mod[name])
        return self._kinds[name]

    def _find_kind(self, function: Expr) -> str:
        if isinstance(function, tirx.PrimFunc):
            kind = kind_of(function)
            pattern = int((function.attrs or {}).get("op_pattern", _INJECTIVE + 1))
            # One pixel, such as the thresholds of an image reshaped for a PReLU, is read by all
            # pixels alike, however its channels came into place.
            in_place = _INJECTIVE if _one_pixel(function) else _BROADCAST
            return kind if kind != "elementwise" or pattern <= in_place else "other"
        inner = [self.kind(name) for name, _ in inner_calls(function)]
        special = [kind for kind in inner if kind != "elementwise"]
        return "elementwise" if not special else special[0] if len(special) == 1 else "other"


def _one_pixel(function: tirx.PrimFunc) -> bool:
    """Whether the result is one pixel of one image: (1, ..., 1, channels)."""
    result = function.params[-1]
    return all(isinstance(dim, tirx.IntImm) and int(dim) == 1 for dim in result.shape[:-1])


def inner_calls(function: Expr) -> list[tuple[GlobalVar, list[Expr]]]:
    """The kernel calls of a fused function, in order."""
    found = [kernel(binding.value) for block in function.body.blocks for binding in block.bindings]
    return [(name, args) for name, args in found if name is not None]


def kernel(value: Expr) -> tuple[Any, list[Expr]]:
    """Function and arguments of a kernel call, (None, []) for anything else."""
    if isinstance(value, Call) and isinstance(value.op, GlobalVar):
        return value.op, list(value.args)
    if op_name(value) == "relax.call_tir":
        single = isinstance(value.ty_args[0], relax.TensorType)
        return (value.args[0], list(value.args[1].fields)) if single else (None, [])
    return None, []


def operator(value: Expr) -> str:
    """The operator of the call of an unfused kernel, as of its label; "" for anything else."""
    operators = Label.of(value).operators if kernel(value)[0] is not None else ()
    return operators[0] if len(operators) == 1 else ""


def packs(value: Expr) -> bool:
    """Whether a call is a `threshold_pack`, or a `threshold_signs`, of its own."""
    return operator(value) in PACKS


def substitute(expr: Expr, env: dict[Expr, Expr]) -> Expr:
    """`expr` with the variables of `env` replaced."""
    if isinstance(expr, relax.Var):
        return env.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(field, env) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, env), expr.index)
    if isinstance(expr, Call):
        args = [substitute(arg, env) for arg in expr.args]
        return Call(expr.op, args, expr.attrs, expr.ty_args)
    return expr


def symbols(ty: Any) -> list[Any]:
    """The symbolic dimensions of a tensor's type."""
    dims = ty.shape.values if isinstance(ty, relax.TensorType) and ty.shape is not None else []
    return [dim for dim in dims if not isinstance(dim, tirx.IntImm)]
