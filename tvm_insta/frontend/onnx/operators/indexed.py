"""Operators that read or write elements at given places, and bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import (
    Constant,
    Ints,
    axis_of,
    check_result_shape,
    operator,
)

Reduction = Literal["none", "add"]


def _places(indices: Tensor, x: Tensor, skip: int = 0) -> tuple[Tensor, ...]:
    """One index tensor per leading axis of ``x``; negative ones count from the end."""
    depth = int(indices.shape[-1])
    if not 1 <= depth <= x.ndim - skip:
        raise ImportModelError(f"{depth} indices do not fit an input of {x.ndim} dimensions")
    columns = indices.to(torch.int64).unbind(-1)
    sizes = x.shape[skip : skip + depth]
    return tuple(torch.where(i < 0, i + size, i) for i, size in zip(columns, sizes, strict=True))


@operator("GatherND")
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Parts of ``x``, each at a place that a row of ``indices`` names."""
    if batch_dims:
        raise ImportModelError(f"batch_dims is {batch_dims}, but only 0 is taken")
    return x[_places(indices, x)]


@operator("ScatterND")
def scatter_nd(
    x: Tensor, indices: Tensor, updates: Tensor, *, reduction: Reduction = "none"
) -> Tensor:
    """``x`` with other parts at the places that the rows of ``indices`` name."""
    return torch.index_put(x, _places(indices, x), updates, accumulate=reduction == "add")


@operator("ScatterElements", "Scatter")
def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: Reduction = "none"
) -> Tensor:
    """``x`` with other elements: each of ``updates`` goes where its index along an axis says."""
    dim = axis_of(axis, x.ndim)
    index = indices.to(torch.int64)
    index = torch.where(index < 0, index + x.shape[dim], index)
    if reduction == "add":
        return torch.scatter_add(x, dim, index, updates)
    return torch.scatter(x, dim, index, updates)


@operator("OneHot")
def one_hot(indices: Tensor, depth: Ints, values: Constant, *, axis: int = -1) -> Tensor:
    """A new axis on which the element at each index is "on", the others "off"."""
    count = int(depth[0]) if len(depth) == 1 else 0
    if count < 1 or values.array.size != 2:
        raise ImportModelError("its depth must be one positive number, its values two")
    dim = axis_of(axis, indices.ndim, 1)
    check_result_shape([*indices.shape, count])
    shape = [1] * (indices.ndim + 1)
    shape[dim] = -1
    positions = torch.arange(count).reshape(shape)
    places = indices.to(torch.int64)
    places = torch.where(places < 0, places + count, places)
    off, on = values.array.reshape(-1).tolist()
    dtype = values.tensor.dtype
    chosen = places.unsqueeze(dim) == positions
    return torch.where(chosen, torch.tensor(on, dtype=dtype), torch.tensor(off, dtype=dtype))


_BITWISE: dict[str, Callable[[Any, Any], Tensor]] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}


def _enter(name: str, function: Callable[[Any, Any], Tensor]) -> None:
    @operator(name)
    def run(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)


for _name, _function in _BITWISE.items():
    _enter(_name, _function)


@operator("BitwiseNot")
def bitwise_not(x: Tensor) -> Tensor:
    """Every bit turned round."""
    return torch.bitwise_not(x)
