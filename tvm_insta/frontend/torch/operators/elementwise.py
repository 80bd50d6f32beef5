"""Operators on each element: types as PyTorch promotes them, every attribute used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from tvm import relax

from tvm_insta.frontend.torch.operators.converter import (
    Bound,
    Call,
    Expr,
    converts,
    number,
)

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _in_double(function: Callable[[Expr], Expr]) -> Callable[[Call, Expr], Expr]:
    """In float64: near 0 the formula cancels, which in float32 leaves few digits."""

    def compute(c: Call, x: Expr) -> Expr:
        wide = c.emit(relax.op.astype(x, "float64"))
        return relax.op.astype(c.emit(function(wide)), str(x.ty.dtype.dtype))

    return compute


def _simple(function: Callable[[Expr], Expr]) -> Callable[[Call, Expr], Expr]:
    return lambda c, x: function(x)


def _like(x: Expr, value: float) -> Expr:
    return relax.const(value, str(x.ty.dtype.dtype))


def _half_exponentials(x: Expr, join: Callable[[Expr, Expr], Expr]) -> Expr:
    """Sinh and cosh by their definition: TVM 0.27 has no vectors of either."""
    grown, shrunk = relax.op.exp(x), relax.op.exp(relax.op.negative(x))
    return relax.op.multiply(join(grown, shrunk), _like(x, 0.5))


_FLOATING: dict[str, Callable[[Call, Expr], Expr]] = {
    name: _simple(getattr(relax.op, name))
    for name in "acos asin atan cos erf exp log sigmoid sin sqrt tan tanh".split()
} | {
    "acosh": _in_double(relax.op.acosh),
    "asinh": _in_double(relax.op.asinh),
    "atanh": _in_double(relax.op.atanh),
    "cosh": _in_double(lambda x: _half_exponentials(x, relax.op.add)),
    "sinh": _in_double(lambda x: _half_exponentials(x, relax.op.subtract)),
    "expm1": _in_double(lambda x: relax.op.subtract(relax.op.exp(x), _like(x, 1.0))),
    "log1p": _in_double(lambda x: relax.op.log(relax.op.add(x, _like(x, 1.0)))),
    "log2": _in_double(lambda x: relax.op.multiply(relax.op.log(x), _like(x, 1 / math.log(2)))),
    "log10": _in_double(lambda x: relax.op.multiply(relax.op.log(x), _like(x, 1 / math.log(10)))),
    "exp2": _in_double(lambda x: relax.op.exp(relax.op.multiply(x, _like(x, math.log(2))))),
    "erfc": _in_double(lambda x: relax.op.subtract(_like(x, 1.0), relax.op.erf(x))),
    "reciprocal": lambda c, x: relax.op.divide(_like(x, 1.0), x),
    "rsqrt": lambda c, x: relax.op.divide(_like(x, 1.0), c.emit(relax.op.sqrt(x))),
}


def _register_floating(name: str, make: Callable[[Call, Expr], Expr]) -> None:
    @converts(f"{name}.default")
    def _(c: Call) -> Expr:
        return c.emit_as_result(make(c, c.operand("self", c.result.dtype)))


for _name, _make in _FLOATING.items():
    if _name != "erfc":  # 1 - erf(x) keeps no digits where erf(x) is near 1
        _register_floating(_name, _make)


_ROUNDING = {name: getattr(relax.op, name) for name in "ceil floor round trunc".split()}


def _register_rounding(name: str, function: Callable[[Expr], Expr]) -> None:
    @converts(f"{name}.default")
    def _(c: Call) -> Expr:
        if not c.result.dtype.is_floating_point:
            return c["self"]
        return c.emit_as_result(function(c.operand("self", c.result.dtype)))


for _name, _function in _ROUNDING.items():
    _register_rounding(_name, _function)


@converts("round.decimals")
def _round_decimals(c: Call) -> Expr:
    x, decimals = c.operand("self", c.result.dtype), int(c["decimals"])
    scale = _like(x, 10.0 ** abs(decimals))
    if decimals >= 0:
        scaled = c.emit(relax.op.round(c.emit(relax.op.multiply(x, scale))))
        return c.emit_as_result(relax.op.divide(scaled, scale))
    scaled = c.emit(relax.op.round(c.emit(relax.op.divide(x, scale))))
    return c.emit_as_result(relax.op.multiply(scaled, scale))


@converts("abs.default")
def _abs(c: Call) -> Expr:
    if c.result.dtype in (torch.uint8, torch.bool):
        return c["self"]
    return c.emit(relax.op.abs(c["self"]))


@converts("neg.default")
def _neg(c: Call) -> Expr:
    if c.result.dtype == torch.uint8:  # TVM 0.27 makes the constant -1 of type uint8
        return c.emit(relax.op.subtract(number(0, torch.uint8), c["self"]))
    return c.emit(relax.op.negative(c["self"]))


@converts("sign.default", "sgn.default")
def _sign(c: Call) -> Expr:
    if c.result.dtype in (torch.bool, torch.uint8):
        positive = c.emit(relax.op.greater(*_comparable(c, c["self"], 0)))
        return c.cast(positive, c.result.dtype)
    return c.emit(relax.op.sign(c["self"]))


@converts("signbit.default")
def _signbit(c: Call) -> Expr:
    source = c.fake("self").dtype
    if not source.is_floating_point:
        return c.emit(relax.op.less(*_comparable(c, c["self"], 0)))
    return sign_bit(c, c.operand("self", source))


def sign_bit(c: Call, x: Expr) -> Expr:
    """Whether a number is negative, -0.0 included; False for NaN of either sign."""
    zero, one = (relax.const(value, str(x.ty.dtype.dtype)) for value in (0.0, 1.0))
    below = c.emit(relax.op.less(x, zero))
    inverse_below = c.emit(relax.op.less(c.emit(relax.op.divide(one, x)), zero))
    return c.emit(relax.op.logical_or(below, inverse_below))


@converts("copysign.Tensor", "copysign.Scalar")
def _copysign(c: Call) -> Expr:
    dtype = c.result.dtype
    size = c.emit(relax.op.abs(c.operand("self", dtype)))
    other = c.bound["other"]
    if isinstance(other, (int, float)):
        negative = math.copysign(1.0, other) < 0
        return c.emit_as_result(relax.op.negative(size) if negative else relax.op.abs(size))
    negative = sign_bit(c, c.operand("other", dtype))
    return c.emit_as_result(relax.op.where(negative, relax.op.negative(size), size))


@converts("isnan.default", "isinf.default")
def _is(c: Call) -> Expr:
    source = c.fake("self").dtype
    x = c.operand("self", source if source.is_floating_point else torch.float32)
    which = str(c.node.target).split(".")[1]
    return c.emit(getattr(relax.op, which)(x))


@converts("relu.default")
def _relu(c: Call) -> Expr:
    if not c.result.dtype.is_floating_point:
        return c.emit(relax.op.maximum(c["self"], number(0, c.result.dtype)))
    return c.emit(relax.op.nn.relu(c["self"]))


@converts("hardtanh.default")
def _hardtanh(c: Call) -> Expr:
    return _clip(c, c["min_val"], c["max_val"])


@converts("clamp.default")
def _clamp(c: Call) -> Expr:
    return _clip(c, c["min"], c["max"])


def _clip(c: Call, low: Any, high: Any) -> Expr:
    """min(max(x, low), high): where the bounds cross, PyTorch gives the upper one."""
    dtype = c.result.dtype
    x = c.operand("self", dtype)
    if dtype in (torch.float32, torch.float64):
        low = -math.inf if low is None else float(low)
        high = math.inf if high is None else float(high)
        return c.emit(relax.op.clip(x, min(low, high), high))
    if low is not None:
        x = c.emit(relax.op.maximum(x, number(low, dtype)))
    return x if high is None else c.emit(relax.op.minimum(x, number(high, dtype)))


@converts("clamp.Tensor")
def _clamp_tensor(c: Call) -> Expr:
    dtype = c.result.dtype
    x = c.operand("self", dtype)
    if c.bound["min"] is not None:
        x = c.emit(relax.op.maximum(x, c.operand("min", dtype)))
    return x if c.bound["max"] is None else c.emit(relax.op.minimum(x, c.operand("max", dtype)))


def _common(c: Call, first: str = "self", second: str = "other") -> tuple[Expr, Expr, torch.dtype]:
    """Two operands in the type of their comparison or arithmetic."""
    values = [
        argument.meta["val"] if hasattr(argument, "meta") else argument
        for argument in (c.bound[first], c.bound[second])
    ]
    dtype = torch.result_type(*values)
    return c.operand(first, dtype), c.operand(second, dtype), dtype


def _comparable(c: Call, x: Expr, value: int) -> tuple[Expr, Expr]:
    """An operand and a number in a type that LLVM compares: booleans as int8."""
    if str(x.ty.dtype.dtype) == "bool":
        x = c.emit(relax.op.astype(x, "int8"))
    return x, relax.const(value, str(x.ty.dtype.dtype))


_COMPARISONS = {
    "eq": relax.op.equal,
    "lt": relax.op.less,
    "le": relax.op.less_equal,
    "gt": relax.op.greater,
    "ge": relax.op.greater_equal,
    "ne": relax.op.not_equal,
}


def _register_comparison(name: str, function: Callable[[Expr, Expr], Expr]) -> None:
    @converts(f"{name}.Tensor", f"{name}.Scalar")
    def _(c: Call) -> Expr:
        left, right, dtype = _common(c)
        if dtype == torch.bool:  # TVM 0.27 compares booleans as floats
            left, right = (c.emit(relax.op.astype(side, "int8")) for side in (left, right))
        same = c.bound["self"] is c.bound["other"]
        if dtype.is_floating_point and (name == "ne" or same):
            return _with_nan(c, name, left, right, same)
        return c.emit(function(left, right))


def _with_nan(c: Call, name: str, left: Expr, right: Expr, same: bool) -> Expr:
    """Comparisons that TVM 0.27 gets wrong for NaN: ``!=``, and a value with itself."""
    either = c.emit(relax.op.isnan(left))
    if same:
        if name in ("lt", "gt"):
            return c.emit(relax.op.zeros_like(either))
        return either if name == "ne" else logical_not(c, either)
    different = c.emit(relax.op.not_equal(left, right))
    for side in (either, c.emit(relax.op.isnan(right))):
        different = c.emit(relax.op.logical_or(different, side))
    return different


for _name, _compare in _COMPARISONS.items():
    _register_comparison(_name, _compare)


def logical_not(c: Call, condition: Expr) -> Expr:
    """Negation of a boolean tensor.

    TVM 0.27 turns ``not (x < y)`` into ``x >= y``, which is another function of NaN: a choice
    between two numbers is not touched.
    """
    chosen = relax.op.where(condition, relax.const(0, "int8"), relax.const(1, "int8"))
    return c.emit(relax.op.astype(c.emit(chosen), "bool"))


def truth(c: Call, name: str) -> Expr:
    """A tensor as booleans: whether it differs from 0; NaN does."""
    return c.operand(name, torch.bool)


@converts("logical_not.default")
def _logical_not(c: Call) -> Expr:
    return logical_not(c, truth(c, "self"))


@converts("logical_and.default")
def _logical_and(c: Call) -> Expr:
    return c.emit(relax.op.logical_and(truth(c, "self"), truth(c, "other")))


@converts("logical_or.default")
def _logical_or(c: Call) -> Expr:
    return c.emit(relax.op.logical_or(truth(c, "self"), truth(c, "other")))


@converts("logical_xor.default")
def _logical_xor(c: Call) -> Expr:
    return c.emit(relax.op.logical_xor(truth(c, "self"), truth(c, "other")))


@converts("bitwise_not.default")
def _bitwise_not(c: Call) -> Expr:
    if c.result.dtype == torch.bool:
        return logical_not(c, c["self"])
    return c.emit(relax.op.bitwise_not(c["self"]))


def _register_bitwise(
    name: str, on_bools: Callable[..., Expr], on_ints: Callable[..., Expr]
) -> None:
    @converts(f"bitwise_{name}.Tensor", f"bitwise_{name}.Scalar")
    def _(c: Call) -> Expr:
        left, right, dtype = _common(c)
        return c.emit((on_bools if dtype == torch.bool else on_ints)(left, right))


for _name in ("and", "or", "xor"):
    _register_bitwise(
        _name, getattr(relax.op, f"logical_{_name}"), getattr(relax.op, f"bitwise_{_name}")
    )


@converts("where.self")
def _where(c: Call) -> Expr:
    dtype = c.result.dtype
    condition = c.operand("condition", torch.bool)
    return c.emit(relax.op.where(condition, c.operand("self", dtype), c.operand("other", dtype)))


@converts("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(c: Call) -> Expr:
    dtype = c.result.dtype
    return c.emit(relax.op.where(c["mask"], c.operand("value", dtype), c["self"]))


@converts("_to_copy.default", "to.dtype", "type_as.default")
def _to_copy(c: Call) -> Expr:
    return c.cast(c["self"], c.result.dtype)


@converts("clone.default", "alias.default", "detach.default", "contiguous.default",
          "lift_fresh_copy.default")  # fmt: skip
def _same(c: Call) -> Expr:
    return c["self"]


def _check_shift(bound: Bound) -> tuple[str, str] | None:
    shift, dtype = bound["other"], bound.value("self").dtype
    if dtype not in _INTEGERS:
        return f"of {str(dtype).removeprefix('torch.')}", "multiply or divide by a power of two"
    places = torch.iinfo(dtype).bits
    if isinstance(shift, int) and 0 <= shift < places:
        return None
    return f"by {shift} places", f"shift by 0 to {places - 1}, or multiply by a power of two"


@converts("__lshift__.Scalar", "__rshift__.Scalar", check=_check_shift)
def _shift(c: Call) -> Expr:
    left = "lshift" in str(c.node.target)
    places = number(c["other"], c.result.dtype)
    return c.emit((relax.op.left_shift if left else relax.op.right_shift)(c["self"], places))
