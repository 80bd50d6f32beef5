"""Tensors that come from the file or from numbers, and the shape of others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import Initialiser
from tvm_insta.frontend.onnx.limits import ELEMENTS
from tvm_insta.frontend.onnx.operators.registry import Constant, Ints, check_result_shape, operator
from tvm_insta.frontend.onnx.tensors import torch_type


@operator("Constant")
def constant(
    *,
    value: Initialiser | None = None,
    value_float: float | None = None,
    value_floats: tuple[float, ...] | None = None,
    value_int: int | None = None,
    value_ints: tuple[int, ...] | None = None,
) -> Tensor | Constant:
    """A tensor that the file holds."""
    if value is not None:  # its element type may have fewer bits than the array
        return Constant(value.array, value.element, torch.from_numpy(value.array), value.doubles)
    for numbers, dtype in ((value_float, torch.float32), (value_floats, torch.float32)):
        if numbers is not None:
            return torch.tensor(numbers, dtype=dtype)
    for numbers in (value_int, value_ints):
        if numbers is not None:
            return torch.tensor(numbers, dtype=torch.int64)
    raise ImportModelError("it has no value")


@operator("ConstantOfShape")
def constant_of_shape(shape: Ints, *, value: Initialiser | None = None) -> Tensor:
    """A tensor of one number."""
    check_result_shape(shape)
    fill = torch.zeros(1) if value is None else torch.from_numpy(value.array)
    if fill.numel() != 1:
        raise ImportModelError(f"its value has {fill.numel()} elements, but must have one")
    return torch.full(tuple(shape), fill.item(), dtype=fill.dtype)


@operator("Range", ignored=("stash_type",))
def range_(start: Constant, limit: Constant, delta: Constant) -> Tensor:
    """Numbers from ``start`` to ``limit`` in steps of ``delta``."""
    first, last, step = (each.array.reshape(-1) for each in (start, limit, delta))
    if not first.size == last.size == step.size == 1 or not step[0]:
        raise ImportModelError("start, limit and delta must be one number each, and delta not 0")
    count = max(math.ceil((float(last[0]) - float(first[0])) / float(step[0])), 0)
    if count > ELEMENTS:
        raise ImportModelError(f"it has {count} elements, but at most {ELEMENTS} are taken")
    numbers = torch.arange(count).to(start.tensor.dtype)
    result: Tensor = numbers * step[0].item() + first[0].item()
    return result


@operator("If", ignored=("then_branch", "else_branch"))
def if_(condition: Constant) -> Tensor:
    """One of two graphs; `OnnxModule` executes it."""
    raise ImportModelError("it stands where only constants are computed")


@operator("Trilu")
def triangle(x: Tensor, k: Ints | None = None, *, upper: bool = True) -> Tensor:
    """The part above or below a diagonal; the rest is 0."""
    diagonal = k[0] if k else 0
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """1 on a diagonal of a matrix as large as ``x``, else 0."""
    if x.ndim != 2:
        raise ImportModelError(f"its input has {x.ndim} dimensions, but a matrix is needed")
    rows, columns = x.shape
    diagonal = torch.arange(columns) - torch.arange(rows).unsqueeze(1) == k
    kind = x.dtype if dtype is None else torch_type(dtype, "EyeLike")
    return diagonal.to(kind)


@operator("Shape")
def shape_(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The dimensions of ``x``; executed on numbers, see `static`."""
    return torch.tensor(x.shape[slice(start, end)], dtype=torch.int64)


@operator("Size")
def size_(x: Tensor) -> Tensor:
    """The number of elements of ``x``; executed on numbers, see `static`."""
    return torch.tensor(x.numel(), dtype=torch.int64)
