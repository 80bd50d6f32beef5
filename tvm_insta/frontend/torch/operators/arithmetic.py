"""Arithmetic of two operands, and activations made of it."""

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


def _operands(c: Call) -> tuple[Expr, Expr, torch.dtype]:
    dtype = c.result.dtype
    return c.operand("self", dtype), c.operand("other", dtype), dtype


def _scaled(c: Call, x: Expr, factor: Any, dtype: torch.dtype) -> Expr:
    return x if factor == 1 else multiply(c, x, number(factor, dtype))


def multiply(c: Call, left: Expr, right: Expr) -> Expr:
    """A product; a constant factor 0 is hidden from TVM 0.27, which takes ``x * 0`` to be 0.

    It is NaN for infinite x and -0.0 for negative x.
    """
    return c.emit(relax.op.multiply(_hidden_zero(left), _hidden_zero(right)))


def _hidden_zero(side: Expr) -> Expr:
    value = side.value.numpy() if hasattr(side, "value") else None
    if value is None or value.ndim or value != 0 or value.dtype.kind != "f":
        return side
    return relax.const(value.reshape(1), str(value.dtype))


@converts("add.Tensor", "add.Scalar")
def _add(c: Call) -> Expr:
    left, right, dtype = _operands(c)
    if dtype == torch.bool:
        return c.emit(relax.op.logical_or(left, right)) if c["alpha"] else left
    return c.emit_as_result(relax.op.add(left, _scaled(c, right, c["alpha"], dtype)))


@converts("sub.Tensor", "sub.Scalar")
def _sub(c: Call) -> Expr:
    left, right, dtype = _operands(c)
    return c.emit_as_result(relax.op.subtract(left, _scaled(c, right, c["alpha"], dtype)))


@converts("rsub.Tensor", "rsub.Scalar")
def _rsub(c: Call) -> Expr:
    left, right, dtype = _operands(c)
    return c.emit_as_result(relax.op.subtract(right, _scaled(c, left, c["alpha"], dtype)))


@converts("mul.Tensor", "mul.Scalar")
def _mul(c: Call) -> Expr:
    left, right, dtype = _operands(c)
    if dtype == torch.bool:
        return c.emit(relax.op.logical_and(left, right))
    return c.cast(multiply(c, left, right), c.result.dtype)


@converts("div.Tensor", "div.Scalar")
def _div(c: Call) -> Expr:
    left, right, _ = _operands(c)
    return c.emit_as_result(relax.op.divide(left, right))


@converts("div.Tensor_mode", "div.Scalar_mode")
def _div_mode(c: Call) -> Expr:
    left, right, dtype = _operands(c)
    mode = c["rounding_mode"]
    if dtype.is_floating_point:
        if mode == "floor":
            return c.cast(_floor_division(c, left, right), c.result.dtype)
        quotient = c.emit(relax.op.divide(left, right))
        return c.emit_as_result(quotient if mode is None else relax.op.trunc(quotient))
    if mode == "floor":
        return c.emit(relax.op.floor_divide(left, right))
    return c.emit(relax.op.divide(left, right))  # of integers: truncates


def _floor_division(c: Call, a: Expr, b: Expr) -> Expr:
    """PyTorch's floor division of floats: of the quotient without remainder, then corrected."""
    zero = relax.const(0.0, str(a.ty.dtype.dtype))
    one = relax.const(1.0, str(a.ty.dtype.dtype))
    rest = c.emit(relax.op.mod(a, b))
    quotient = c.emit(relax.op.divide(c.emit(relax.op.subtract(a, rest)), b))
    opposite = relax.op.logical_xor(relax.op.less(rest, zero), relax.op.less(b, zero))
    wrong = c.emit(relax.op.logical_and(relax.op.not_equal(rest, zero), opposite))
    quotient = c.emit(relax.op.where(wrong, relax.op.subtract(quotient, one), quotient))
    floor = c.emit(relax.op.floor(quotient))
    half = relax.const(0.5, str(a.ty.dtype.dtype))
    above = relax.op.greater(relax.op.subtract(quotient, floor), half)
    floor = c.emit(relax.op.where(above, relax.op.add(floor, one), floor))
    by_zero = c.emit(relax.op.equal(b, zero))
    return c.emit(relax.op.where(by_zero, relax.op.divide(a, b), floor))


@converts("remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor")
def _remainder(c: Call) -> Expr:
    left, right, dtype = _operands(c)
    if not dtype.is_floating_point:
        return c.emit(relax.op.floor_mod(left, right))
    zero = number(0.0, dtype)
    rest = c.emit(relax.op.mod(left, right))
    opposite = relax.op.logical_xor(relax.op.less(rest, zero), relax.op.less(right, zero))
    wrong = c.emit(relax.op.logical_and(relax.op.not_equal(rest, zero), opposite))
    return c.emit_as_result(relax.op.where(wrong, relax.op.add(rest, right), rest))


@converts("fmod.Tensor", "fmod.Scalar")
def _fmod(c: Call) -> Expr:
    left, right, _ = _operands(c)
    return c.emit_as_result(relax.op.mod(left, right))


@converts("maximum.default")
def _maximum(c: Call) -> Expr:
    return _extremum(c, relax.op.maximum, relax.op.logical_or)


@converts("minimum.default")
def _minimum(c: Call) -> Expr:
    return _extremum(c, relax.op.minimum, relax.op.logical_and)


def _extremum(c: Call, on_numbers: Callable[..., Expr], on_bools: Callable[..., Expr]) -> Expr:
    left, right, dtype = _operands(c)
    if dtype == torch.bool:
        return c.emit(on_bools(left, right))
    return c.emit_as_result(on_numbers(left, right))


@converts("fmax.default", "fmin.default")
def _without_nan(c: Call) -> Expr:
    left, right, dtype = _operands(c)
    larger = str(c.node.target).startswith("aten.fmax")
    result = c.emit((relax.op.maximum if larger else relax.op.minimum)(left, right))
    if dtype.is_floating_point:
        result = c.emit(relax.op.where(c.emit(relax.op.isnan(left)), right, result))
        result = c.emit(relax.op.where(c.emit(relax.op.isnan(right)), left, result))
    return c.cast(result, c.result.dtype)


@converts("atan2.default")
def _atan2(c: Call) -> Expr:
    left, right, _ = _operands(c)
    return c.emit_as_result(relax.op.atan2(left, right))


@converts("hypot.default")
def _hypot(c: Call) -> Expr:
    left, right, _ = _operands(c)
    wide = [c.emit(relax.op.astype(side, "float64")) for side in (left, right)]
    squares = [c.emit(relax.op.multiply(side, side)) for side in wide]
    root = c.emit(relax.op.sqrt(c.emit(relax.op.add(*squares))))
    result = c.cast(root, c.result.dtype)
    for side in (left, right):  # infinite even beside NaN
        infinite = c.emit(relax.op.isinf(side))
        result = c.emit(relax.op.where(infinite, number(math.inf, c.result.dtype), result))
    return result


def _check_power(bound: Bound) -> tuple[str, str] | None:
    exponent = bound["exponent"]
    if bound.node.meta["val"].dtype.is_floating_point:
        return None
    if isinstance(exponent, int) and 0 <= exponent <= 16:
        return None
    return "of integers with that exponent", "convert to float32 first"


@converts("pow.Tensor_Scalar", check=_check_power)
def _pow_scalar(c: Call) -> Expr:
    dtype = c.result.dtype
    x, exponent = c.operand("self", dtype), c["exponent"]
    one = number(1, dtype)
    if exponent == 0:
        return c.emit(
            relax.op.full_like(c.cast(c["self"], c.result.dtype), number(1, c.result.dtype))
        )
    if not dtype.is_floating_point or exponent in (1, 2, 3):
        return c.cast(_product(c, x, int(exponent)), c.result.dtype)
    if exponent in (-1, -2):
        return c.emit_as_result(relax.op.divide(one, _product(c, x, -int(exponent))))
    if exponent == 0.5:
        return c.emit_as_result(relax.op.sqrt(x))
    if exponent == -0.5:
        return c.emit_as_result(relax.op.divide(one, c.emit(relax.op.sqrt(x))))
    return c.emit_as_result(relax.op.power(x, number(exponent, dtype)))


def _product(c: Call, x: Expr, count: int) -> Expr:
    result = x
    for _ in range(count - 1):
        result = c.emit(relax.op.multiply(result, x))
    return result


def _check_power_float(bound: Bound) -> tuple[str, str] | None:
    if bound.node.meta["val"].dtype.is_floating_point:
        return None
    return "of integers", "convert to float32 first"


@converts("pow.Scalar", "pow.Tensor_Tensor", check=_check_power_float)
def _pow(c: Call) -> Expr:
    dtype = c.result.dtype
    base, exponent = c.operand("self", dtype), c.operand("exponent", dtype)
    return c.emit_as_result(relax.op.power(base, exponent))


@converts("elu.default")
def _elu(c: Call) -> Expr:
    dtype = c.result.dtype
    x = c.operand("self", dtype)
    scale, negative = float(c["scale"]), float(c["scale"]) * float(c["alpha"])
    scaled = _scaled(c, x, c["input_scale"], dtype)
    wide = c.emit(relax.op.astype(scaled, "float64"))
    below = c.emit(relax.op.subtract(relax.op.exp(wide), relax.const(1.0, "float64")))
    below = multiply(c, c.cast(below, dtype), number(negative, dtype))
    positive = c.emit(relax.op.greater(x, number(0, dtype)))
    return c.emit_as_result(relax.op.where(positive, _scaled(c, x, scale, dtype), below))


@converts("leaky_relu.default")
def _leaky_relu(c: Call) -> Expr:
    dtype = c.result.dtype
    x, slope = c.operand("self", dtype), float(c["negative_slope"])
    if slope not in (0.0,) and dtype == torch.float32:
        return c.emit_as_result(relax.op.nn.leakyrelu(x, slope))
    positive = c.emit(relax.op.greater(x, number(0, dtype)))
    return c.emit_as_result(relax.op.where(positive, x, multiply(c, x, number(slope, dtype))))


@converts("rrelu_with_noise_functional.default")
def _rrelu(c: Call) -> Expr:
    """In eval mode the slope is the mean of the bounds."""
    x = c["self"]
    dtype = c.fake("self").dtype
    slope = number((float(c["lower"]) + float(c["upper"])) / 2, dtype)
    positive = c.emit(relax.op.greater(x, number(0, dtype)))
    return (c.emit(relax.op.where(positive, x, multiply(c, x, slope))), None)


@converts("gelu.default")
def _gelu(c: Call) -> Expr:
    dtype = c.result.dtype
    x = c.operand("self", dtype)
    half, one = number(0.5, dtype), number(1.0, dtype)
    if c["approximate"] == "tanh":
        cube = _product(c, x, 3)
        inner = c.emit(relax.op.add(x, c.emit(relax.op.multiply(cube, number(0.044715, dtype)))))
        inner = c.emit(relax.op.multiply(inner, number(math.sqrt(2 / math.pi), dtype)))
        rise = relax.op.tanh(inner)
    else:
        rise = relax.op.erf(c.emit(relax.op.multiply(x, number(math.sqrt(0.5), dtype))))
    weight = c.emit(relax.op.multiply(c.emit(relax.op.add(c.emit(rise), one)), half))
    return c.emit_as_result(relax.op.multiply(x, weight))


@converts("_softmax.default")
def _softmax(c: Call) -> Expr:
    return c.emit(relax.op.nn.softmax(c.operand("self", c.result.dtype), int(c["dim"])))


@converts("_log_softmax.default")
def _log_softmax(c: Call) -> Expr:
    """X - max - log(sum(exp(x - max))), of any rank."""
    axis = [int(c["dim"])]
    x = c.operand("self", c.result.dtype)
    shifted = c.emit(relax.op.subtract(x, c.emit(relax.op.max(x, axis, True))))
    total = c.emit(relax.op.sum(c.emit(relax.op.exp(shifted)), axis, True))
    return c.emit(relax.op.subtract(shifted, c.emit(relax.op.log(total))))
