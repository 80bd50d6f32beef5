"""Reductions, orderings and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.elementwise import known_number
from tvm_insta.frontend.onnx.operators.registry import (
    Constant,
    Ints,
    Result,
    axis_of,
    operator,
)

Axes = tuple[int, ...]


def largest(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """The largest along some axes; no number where one of them is none, as PyTorch has it."""
    return torch.amax(x, axes, keep)


def smallest(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    """The smallest along some axes, likewise."""
    return torch.amin(x, axes, keep)


def _log_sum_exp(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    top = largest(x, axes, True)
    top = torch.where(torch.abs(top) == math.inf, 0.0, top)
    total = torch.log(torch.exp(x - top).sum(axes, True)) + top
    return total if keep else total.squeeze(axes)


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(x.sum(axes, keep), count, rounding_mode="trunc")


_REDUCTIONS: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt((x * x).sum(axes, keep)),
    "ReduceLogSum": lambda x, axes, keep: torch.log(x.sum(axes, keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": largest,
    "ReduceMean": _mean,
    "ReduceMin": smallest,
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep),
}


def _enter(name: str, function: Callable[[Tensor, Axes, bool], Tensor]) -> None:
    @operator(name)
    def run(
        x: Tensor,
        dims: Ints | None = None,
        *,
        axes: tuple[int, ...] | None = None,
        keepdims: bool = True,
        noop_with_empty_axes: bool = False,
    ) -> Tensor:
        chosen = dims if axes is None else axes
        dtype = x.dtype
        if not chosen and noop_with_empty_axes:
            # The element-wise part still happens: a square stays a square.
            return function(x.unsqueeze(-1), (x.ndim,), False).to(dtype)
        found = tuple(axis_of(axis, x.ndim) for axis in chosen or range(x.ndim))
        if len(set(found)) < len(found):
            raise ImportModelError(f"axes {list(chosen or ())} name one axis twice")
        if not found:  # a scalar has no axes
            return function(x.reshape(1), (0,), False).to(dtype)
        return function(x, found, keepdims).to(dtype)


for _name, _function in _REDUCTIONS.items():
    _enter(_name, _function)


def _arg(x: Tensor, axis: int, keepdims: bool, last: bool, largest: bool) -> Tensor:
    dim = axis_of(axis, x.ndim)
    if not last:
        return x.argmax(dim, keepdims) if largest else x.argmin(dim, keepdims)
    turned = x.flip(dim)
    found = turned.argmax(dim, keepdims) if largest else turned.argmin(dim, keepdims)
    return x.shape[dim] - 1 - found


@operator("ArgMax")
def arg_max(
    x: Tensor, *, axis: int = 0, keepdims: bool = True, select_last_index: bool = False
) -> Tensor:
    """Index of the first (or last) largest along an axis."""
    return _arg(x, axis, keepdims, select_last_index, True)


@operator("ArgMin")
def arg_min(
    x: Tensor, *, axis: int = 0, keepdims: bool = True, select_last_index: bool = False
) -> Tensor:
    """Index of the first (or last) smallest along an axis."""
    return _arg(x, axis, keepdims, select_last_index, False)


@operator("TopK")
def top_k(
    x: Tensor,
    count: Ints | None = None,
    *,
    axis: int = -1,
    k: int | None = None,
    largest: bool = True,
    sorted: bool = True,
) -> Result:
    """The ``k`` largest along an axis, and where they are; of equal ones the first."""
    number = k if k is not None else (count or (None,))[0]
    dim = axis_of(axis, x.ndim)
    if number is None or not 0 < number <= x.shape[dim]:
        raise ImportModelError(f"k is {number}, but the axis has {x.shape[dim]} elements")
    if number == 1:
        index = _arg(x, dim, True, False, largest)
        best = _REDUCTIONS["ReduceMax" if largest else "ReduceMin"]
        return best(x, (dim,), True), index
    values, indices = torch.sort(x, dim=dim, descending=largest, stable=True)
    return values.narrow(dim, 0, number), indices.narrow(dim, 0, number)


@operator("CumSum")
def cumulative_sum(
    x: Tensor, axis: Constant, *, exclusive: bool = False, reverse: bool = False
) -> Tensor:
    """Sums of all elements up to each."""
    dim = axis_of(int(known_number(axis)), x.ndim)
    turned = x.flip(dim) if reverse else x
    sums = turned.cumsum(dim).to(x.dtype)
    if exclusive:
        sums = sums - turned
    return sums.flip(dim) if reverse else sums
