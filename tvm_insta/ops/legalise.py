"""Plain Relax operators as TE, where TVM 0.27's legalisation differs from PyTorch.

- NaN: TVM's ``max(x, 0)``, clip and max pool give a number where PyTorch gives NaN, because
  ``a > b ? a : b`` is b for a NaN a. Here NaN is kept: a constant comes first (no cost: the one
  instruction is the same), two tensors are asked for NaN.
- A maximum of nothing but -inf is -inf; TVM starts with the smallest finite number.
- Sums and means of floats add one float32 after the other; over a 32x32x16 image that is off by
  1e-5. Here they add in float64, in the order of the reduced axes, and are rounded once.

`LEGALISATIONS` goes to `relax.transform.LegalizeOps`. tests/ops/test_ops_legalise.py holds a canary
for each: it fails when TVM does it by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax, te, tirx, topi

Expr = Any
Legalise = Callable[[relax.BlockBuilder, relax.Call], Expr]

_WIDE = {"float32": "float64"}


def larger(a: Expr, b: Expr) -> Expr:
    """The larger of two numbers, NaN where one is NaN."""
    return _extreme(tirx.max, a, b)


def smaller(a: Expr, b: Expr) -> Expr:
    """The smaller of two numbers, NaN where one is NaN."""
    return _extreme(tirx.min, a, b)


def _extreme(function: Callable[[Expr, Expr], Expr], a: Expr, b: Expr) -> Expr:
    if isinstance(b, tirx.FloatImm):
        a, b = b, a
    if isinstance(a, tirx.FloatImm) and not math.isnan(a.value):
        return function(a, b)  # b where it is NaN
    if not _is_float(_type(a)):
        return function(a, b)
    # Only NaN is not at most infinity. TVM takes isnan lane by lane, and may fold a != a.
    return tirx.Select(a <= tirx.const(math.inf, _type(a)), function(a, b), a)


def _type(expr: Expr) -> str:
    return str(expr.ty.dtype)


def _is_float(dtype: str) -> bool:
    return "float" in dtype


def _least(dtype: str) -> Expr:
    return tirx.const(-math.inf, dtype) if _is_float(dtype) else tirx.min_value(dtype)


def _greatest(dtype: str) -> Expr:
    return tirx.const(math.inf, dtype) if _is_float(dtype) else tirx.max_value(dtype)


_MAX = te.comm_reducer(larger, lambda dtype: _least(str(dtype)), name="max")
_MIN = te.comm_reducer(smaller, lambda dtype: _greatest(str(dtype)), name="min")


def _relu(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    return _clipped(builder, call.args[0], 0.0, math.inf, "relu")


def _relu6(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    return _clipped(builder, call.args[0], 0.0, 6.0, "relu6")


def _clip(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
    low, high = (float(arg.value) for arg in call.args[1:3])
    return _clipped(builder, call.args[0], low, high, "tir_clip")


def _clipped(builder: relax.BlockBuilder, data: Expr, low: float, high: float, name: str) -> Expr:
    def compute(x: te.Tensor) -> te.Tensor:
        def value(*index: Expr) -> Expr:
            result = x(*index)
            if high != math.inf:
                result = tirx.min(_constant(high, str(x.dtype)), result)
            if low != -math.inf:
                result = tirx.max(_constant(low, str(x.dtype)), result)
            return result

        return te.compute(x.shape, value, name="compute", tag="elemwise")

    return builder.call_te(compute, data, primfunc_name_hint=name)


def _constant(value: float, dtype: str) -> Expr:
    return tirx.const(value if _is_float(dtype) else int(value), dtype)


def _elementwise(name: str, function: Callable[[Expr, Expr], Expr]) -> Legalise:
    def legalise(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        numbers = [_scalar(arg) for arg in call.args]
        tensors = [arg for arg, number in zip(call.args, numbers, strict=True) if number is None]
        if not tensors:
            numbers, tensors = [None, None], list(call.args)

        def compute(*given: te.Tensor) -> te.Tensor:
            sources = list(given)
            sides = [sources.pop(0) if number is None else number for number in numbers]
            shape = _broadcast(*(side.shape for side in given))
            return te.compute(
                shape,
                lambda *index: function(*(_read(side, index) for side in sides)),
                name="compute",
                tag="broadcast",
            )

        return builder.call_te(compute, *tensors, primfunc_name_hint=name)

    return legalise


def _scalar(arg: Expr) -> Expr | None:
    """The number of a constant without dimensions, None for anything else."""
    if not isinstance(arg, tvm.ir.GenericConst) or int(arg.ty.ndim) != 0:
        return None
    value, dtype = arg.value.numpy()[()].item(), str(arg.ty.dtype.dtype)
    return tirx.FloatImm(dtype, value) if _is_float(dtype) else tirx.IntImm(dtype, value)


def _broadcast(*shapes: Sequence[Expr]) -> list[Expr]:
    rank = max(len(shape) for shape in shapes)
    result: list[Expr] = [tirx.IntImm("int64", 1)] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            result[axis] = result[axis] if _is_one(size) else size
    return result


def _is_one(size: Expr) -> bool:
    return isinstance(size, tirx.IntImm) and int(size) == 1


def _read(side: Expr, index: Sequence[Expr]) -> Expr:
    """An element of an operand that broadcasts to the place `index`; a number is itself."""
    if not isinstance(side, te.Tensor):
        return side
    own = index[len(index) - len(side.shape) :]
    return side(*(0 if _is_one(size) else at for size, at in zip(side.shape, own, strict=True)))


def _axes(call: relax.Call, rank: int) -> list[int]:
    axes = call.attrs.axis
    return list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]


def _reduced(
    x: te.Tensor,
    axes: Sequence[int],
    keep: bool,
    reducer: Callable[..., Expr],
    read: Callable[[Expr], Expr],
) -> te.Tensor:
    """Reduce axes in row-major order."""
    names = {axis: te.reduce_axis((0, x.shape[axis]), f"k{axis}") for axis in sorted(set(axes))}
    one = tirx.IntImm("int64", 1)
    shape = [
        one if axis in names else size
        for axis, size in enumerate(x.shape)
        if keep or axis not in names
    ]

    def value(*index: Expr) -> Expr:
        left = list(index)
        at = []
        for axis in range(len(x.shape)):
            if axis in names:
                at.append(names[axis])
                if keep:
                    left.pop(0)
            else:
                at.append(left.pop(0))
        return reducer(read(x(*at)), axis=list(names.values()))

    return te.compute(shape, value, name="reduce", tag="comm_reduce")


def _extremum(name: str, reducer: Callable[..., Expr]) -> Legalise:
    def legalise(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        axes, keep = _axes(call, int(call.args[0].ty.ndim)), bool(call.attrs.keepdims)

        def compute(x: te.Tensor) -> te.Tensor:
            return _reduced(x, axes, keep, reducer, lambda value: value)

        return builder.call_te(compute, call.args[0], primfunc_name_hint=name)

    return legalise


def _summed(name: str, *, mean: bool) -> Legalise:
    def legalise(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        axes, keep = _axes(call, int(call.args[0].ty.ndim)), bool(call.attrs.keepdims)

        def compute(x: te.Tensor) -> te.Tensor:
            dtype = str(x.dtype)
            wide = _WIDE.get(dtype, dtype)
            total = _reduced(x, axes, keep, te.sum, lambda value: value.astype(wide))
            if not mean:
                return total if wide == dtype else topi.cast(total, dtype)
            count = tirx.const(1, "int64")
            for axis in axes:
                count = count * x.shape[axis]
            return te.compute(
                total.shape,
                lambda *index: (total(*index) / count.astype(wide)).astype(dtype),
                name="mean",
                tag="elemwise",
            )

        return builder.call_te(compute, call.args[0], primfunc_name_hint=name)

    return legalise


def _max_pool(space: int) -> Legalise:
    """The window's maximum; the padding is left out of it, as an element of -inf."""

    def legalise(builder: relax.BlockBuilder, call: relax.Call) -> Expr:
        attrs = call.attrs
        first = 1 if str(attrs.layout).endswith("C") else 2
        kernel, stride, dilation = (
            [int(value) for value in values]
            for values in (attrs.pool_size, attrs.strides, attrs.dilation)
        )
        pads = [int(value) for value in attrs.padding]
        pads = pads if len(pads) == 2 * space else pads * 2
        sizes = [int(size) for size in call.ty.shape.values[first : first + space]]

        def compute(x: te.Tensor) -> te.Tensor:
            window = [te.reduce_axis((0, size), f"k{axis}") for axis, size in enumerate(kernel)]
            shape = [*x.shape[:first], *sizes, *x.shape[first + space :]]
            before = [0] * len(shape)
            before[first : first + space] = pads[:space]
            behind = [0] * len(shape)
            for axis in range(space):
                reach = (sizes[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
                extent = int(x.shape[first + axis]) + pads[axis]
                behind[first + axis] = max(0, reach - extent)
            padded = x
            if any(before) or any(behind):
                padded = topi.nn.pad(x, before, behind, _least(str(x.dtype)), name="pad_temp")

            def value(*index: Expr) -> Expr:
                at = list(index)
                for axis, tap in enumerate(window):
                    at[first + axis] = index[first + axis] * stride[axis] + tap * dilation[axis]
                return _MAX(padded(*at), axis=window)

            return te.compute(shape, value, name="pool_max", tag="pool_max")

        return builder.call_te(compute, call.args[0], primfunc_name_hint=f"max_pool{space}d")

    return legalise


LEGALISATIONS: dict[str, Legalise] = {
    "relax.nn.relu": _relu,
    "relax.nn.relu6": _relu6,
    "relax.clip": _clip,
    "relax.maximum": _elementwise("maximum", larger),
    "relax.minimum": _elementwise("minimum", smaller),
    "relax.max": _extremum("max", _MAX),
    "relax.min": _extremum("min", _MIN),
    "relax.sum": _summed("sum", mean=False),
    "relax.mean": _summed("mean", mean=True),
    **{f"relax.nn.max_pool{space}d": _max_pool(space) for space in (1, 2, 3)},
}
"""By the operator's name; see the module's docstring."""
