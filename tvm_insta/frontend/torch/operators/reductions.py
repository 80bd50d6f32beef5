"""Reductions: sums are taken in the wider type that `tvm_insta.ops.exact` defines."""

from __future__ import annotations

import math
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
from tvm_insta.frontend.torch.operators.elementwise import logical_not, truth

Axes = list[int] | None


def _axes(dims: Any, rank: int) -> Axes:
    """An argument `dim` as a list of axes counted from the front; None for all of them."""
    if dims is None or dims == []:
        return None
    return [int(dim) % rank if rank else 0 for dim in (dims if isinstance(dims, list) else [dims])]


def _count(c: Call, axes: Axes, x: Expr) -> Expr | int:
    """How many elements are reduced to one: an int, or a tensor where the batch is among them."""
    shape = c.shape_of("self")
    sizes = shape if axes is None else [shape[axis] for axis in axes]
    if all(isinstance(size, int) for size in sizes):
        return math.prod(sizes)
    ones = c.emit(relax.op.full_like(x, relax.const(1.0, str(x.ty.dtype.dtype))))
    return c.emit(relax.op.sum(ones, axes, False))


@converts("mean.dim", "mean.default")
def _mean(c: Call) -> Expr:
    x = c.operand("self", c.result.dtype)
    axes = _axes(c["dim"] if "dim" in c.bound.arguments else None, c.fake("self").ndim)
    keep = bool(c["keepdim"]) if "keepdim" in c.bound.arguments else False
    return c.emit_as_result(relax.op.mean(x, axes, keep))


@converts("sum.dim_IntList", "sum.default")
def _sum(c: Call) -> Expr:
    x = c.operand("self", c.result.dtype)
    axes = _axes(c["dim"] if "dim" in c.bound.arguments else None, c.fake("self").ndim)
    keep = bool(c["keepdim"]) if "keepdim" in c.bound.arguments else False
    return c.emit_as_result(relax.op.sum(x, axes, keep))


@converts("prod.dim_int", "prod.default")
def _prod(c: Call) -> Expr:
    x = c.operand("self", c.result.dtype)
    axes = _axes(c["dim"] if "dim" in c.bound.arguments else None, c.fake("self").ndim)
    keep = bool(c["keepdim"]) if "keepdim" in c.bound.arguments else False
    return c.emit_as_result(relax.op.prod(x, axes, keep))


@converts("amax.default", "amin.default")
def _extremum(c: Call) -> Expr:
    axes = _axes(c["dim"], c.fake("self").ndim)
    return _extreme(c, c["self"], axes, bool(c["keepdim"]), largest="amax" in str(c.node.target))


@converts("max.default", "min.default")
def _extremum_of_all(c: Call) -> Expr:
    return _extreme(c, c["self"], None, False, largest="max" in str(c.node.target))


def _extreme(c: Call, x: Expr, axes: Axes, keep: bool, *, largest: bool) -> Expr:
    source = str(x.ty.dtype.dtype)
    if source == "bool":
        x = c.emit(relax.op.astype(x, "int8"))
    result = c.emit((relax.op.max if largest else relax.op.min)(x, axes, keep))
    return c.emit(relax.op.astype(result, "bool")) if source == "bool" else result


@converts("max.dim", "min.dim")
def _extremum_and_index(c: Call) -> Any:
    largest = "max" in str(c.node.target)
    axis, keep = int(c["dim"]), bool(c["keepdim"])
    value = _extreme(c, c["self"], [axis % c.fake("self").ndim], keep, largest=largest)
    return (value, _index(c, axis, keep, largest=largest))


@converts("argmax.default", "argmin.default")
def _argument(c: Call) -> Expr:
    dim = c["dim"]
    largest = "argmax" in str(c.node.target)
    return _index(c, None if dim is None else int(dim), bool(c["keepdim"]), largest=largest)


def _index(c: Call, axis: int | None, keep: bool, *, largest: bool) -> Expr:
    """The first index of the extreme element; the first NaN is the extreme where there is one."""
    x, dtype = c["self"], c.fake("self").dtype
    find = relax.op.argmax if largest else relax.op.argmin
    if dtype == torch.bool:
        x = c.emit(relax.op.astype(x, "int8"))
    found = c.emit(find(x, axis, keep))
    if not dtype.is_floating_point:
        return found
    nan = c.emit(relax.op.astype(c.emit(relax.op.isnan(x)), "int32"))
    axes = None if axis is None else [axis % c.fake("self").ndim]
    some = c.emit(relax.op.greater(c.emit(relax.op.max(nan, axes, keep)), relax.const(0, "int32")))
    return c.emit(relax.op.where(some, c.emit(relax.op.argmax(nan, axis, keep)), found))


@converts("any.dim", "any.dims", "any.default")
def _any(c: Call) -> Expr:
    return _some(c, truth(c, "self"))


@converts("all.dim", "all.dims", "all.default")
def _all(c: Call) -> Expr:
    return logical_not(c, _some(c, logical_not(c, truth(c, "self"))))


def _some(c: Call, condition: Expr) -> Expr:
    arguments = c.bound.arguments
    axes = _axes(c["dim"] if "dim" in arguments else None, c.fake("self").ndim)
    keep = bool(c["keepdim"]) if "keepdim" in arguments else False
    ones = c.emit(relax.op.astype(condition, "int8"))
    return c.emit(relax.op.astype(c.emit(relax.op.max(ones, axes, keep)), "bool"))


@converts("var.correction")
def _var(c: Call) -> Expr:
    return c.cast(_moments(c)[0], c.result.dtype)


@converts("var_mean.correction")
def _var_mean(c: Call) -> Any:
    return tuple(c.cast(value, c.result.dtype) for value in _moments(c))


def _moments(c: Call) -> tuple[Expr, Expr]:
    """Variance and mean, in two passes."""
    dtype = c.result.dtype
    x, axes, keep = c.operand("self", dtype), _axes(c["dim"], c.fake("self").ndim), c["keepdim"]
    correction = 1.0 if c["correction"] is None else float(c["correction"])
    mean = c.emit(relax.op.mean(x, axes, True))
    off = c.emit(relax.op.subtract(x, mean))
    squares = c.emit(relax.op.multiply(off, off))
    if not keep:
        mean = c.emit(relax.op.mean(x, axes, False))
    if correction == 0:
        return c.emit(relax.op.mean(squares, axes, bool(keep))), mean
    total = c.emit(relax.op.sum(squares, axes, bool(keep)))
    count = _count(c, axes, x)
    if isinstance(count, int):
        degrees = number(max(count - correction, 0.0), dtype)
    else:
        degrees = c.emit(relax.op.subtract(count, number(correction, dtype)))
    return c.emit(relax.op.divide(total, degrees)), mean


def _check_norm(bound: Bound) -> tuple[str, str] | None:
    if bound.value("self").dtype in (torch.float32, torch.float64):
        return None
    return f"of {bound.value('self').dtype}", "convert to float32 first"


@converts("linalg_vector_norm.default", check=_check_norm)
def _vector_norm(c: Call) -> Expr:
    x, order = c["self"], float(c["ord"])
    axes, keep = _axes(c["dim"], c.fake("self").ndim), bool(c["keepdim"])
    dtype = c.fake("self").dtype
    size = c.emit(relax.op.abs(x))
    if math.isinf(order):
        result = c.emit((relax.op.max if order > 0 else relax.op.min)(size, axes, keep))
    elif order == 0:
        nonzero = c.emit(relax.op.astype(c.emit(relax.op.astype(x, "bool")), str(x.ty.dtype.dtype)))
        result = c.emit(relax.op.sum(nonzero, axes, keep))
    elif order == 1:
        result = c.emit(relax.op.sum(size, axes, keep))
    elif order == 2:
        total = c.emit(relax.op.sum(c.emit(relax.op.multiply(x, x)), axes, keep))
        result = c.emit(relax.op.sqrt(total))
    else:
        powers = c.emit(relax.op.power(size, number(order, dtype)))
        total = c.emit(relax.op.sum(powers, axes, keep))
        result = c.emit(relax.op.power(total, number(1 / order, dtype)))
    return c.cast(result, c.result.dtype)


def _check_scan(bound: Bound) -> tuple[str, str] | None:
    value = bound.value("self")
    if isinstance(value.shape[bound["dim"] % value.ndim], int):
        return None
    return "over the batch", "leave the images of a batch apart"


@converts("cumsum.default", check=_check_scan)
def _cumsum(c: Call) -> Expr:
    return _scan(c, relax.op.sum, 0)


@converts("cumprod.default", check=_check_scan)
def _cumprod(c: Call) -> Expr:
    return _scan(c, relax.op.prod, 1)


def _scan(c: Call, reduce: Any, neutral: int) -> Expr:
    """Result i is the reduction of elements 0..i: TVM 0.27's scans need its own dispatch pass."""
    dtype = c.result.dtype
    axis = int(c["dim"]) % c.fake("self").ndim
    shape = c.shape_of("self")
    size = int(shape[axis])
    x = c.operand("self", dtype)
    wide = c.emit(relax.op.reshape(x, [*shape[:axis], 1, *shape[axis:]]))
    mask = torch.ones(size, size, dtype=torch.bool).tril()
    mask = mask.view(*[1] * axis, size, size, *[1] * (len(shape) - axis - 1))
    seen = c.emit(relax.op.where(relax.const(mask.numpy(), "bool"), wide, number(neutral, dtype)))
    return c.emit_as_result(reduce(seen, [axis + 1], False))
