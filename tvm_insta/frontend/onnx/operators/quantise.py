"""QuantizeLinear, DequantizeLinear and the products of integers."""

from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import (
    Codes,
    Constant,
    Result,
    axis_of,
    operator,
    require_float,
)
from tvm_insta.frontend.onnx.tensors import bounds, torch_type

Operand = Tensor | float


def check_scale(scale: Constant, what: str = "its scale") -> None:
    """Do nothing if a scale is positive: others turn the order round, or make no sense.

    Raises:
        ImportModelError: not a positive number.
    """
    if not np.all(np.isfinite(scale.array)) or not np.all(scale.array > 0):
        raise ImportModelError(f"{what} must be positive numbers")


def _shaped(x: Tensor, value: Constant, axis: int, block_size: int) -> Operand:
    """A scale or zero point as something that broadcasts to ``x``."""
    numbers = value.array
    if numbers.size == 1:
        return float(numbers.reshape(-1)[0])
    tensor = value.tensor.to(torch.float32)
    dim = axis_of(axis, x.ndim)
    if block_size:
        fits = tensor.ndim == x.ndim and -(-x.shape[dim] // block_size) == tensor.shape[dim]
        if block_size < 0 or not fits:
            raise ImportModelError(
                f"a scale of shape {list(numbers.shape)} in blocks of {block_size} does not fit"
            )
        return tensor.repeat_interleave(block_size, dim).narrow(dim, 0, x.shape[dim])
    if tensor.ndim != 1 or tensor.shape[0] != x.shape[dim]:
        raise ImportModelError(
            f"a scale of shape {list(numbers.shape)} does not fit axis {axis} of length "
            f"{x.shape[dim]}"
        )
    shape = [1] * x.ndim
    shape[dim] = -1
    return tensor.reshape(shape)


def _is_zero(point: Constant | None) -> bool:
    return point is None or not point.array.any()


@operator("QuantizeLinear", ignored=("saturate", "precision"))
def quantize_linear(
    x: Tensor,
    scale: Constant,
    zero_point: Constant | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Codes:
    """``round(x / scale) + zero_point``, to the even neighbour, in the integer type's range."""
    check_scale(scale)
    element = zero_point.element if zero_point is not None else output_dtype or TensorProto.UINT8
    low, high = bounds(element)
    codes = torch.round(require_float(x, "its input") / _shaped(x, scale, axis, block_size))
    if zero_point is not None and not _is_zero(zero_point):
        codes = codes + _shaped(x, zero_point, axis, block_size)
    return Codes(torch.clamp(codes, low, high), element)


@operator("DequantizeLinear")
def dequantize_linear(
    x: Tensor | Codes,
    scale: Constant,
    zero_point: Constant | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """``(x - zero_point) * scale``."""
    check_scale(scale)
    values = x.values if isinstance(x, Codes) else x.to(torch.float32)
    if zero_point is not None and not _is_zero(zero_point):
        values = values - _shaped(values, zero_point, axis, block_size)
    factor = _shaped(values, scale, axis, block_size)
    return values if isinstance(factor, float) and factor == 1.0 else values * factor


def materialised(codes: Codes) -> Tensor:
    """The integers as bytes, for operators that compute with them."""
    return codes.values.to(torch_type(codes.element, "a quantised tensor"))


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(x: Tensor) -> Result:
    """uint8 codes, scale and zero point by the range of the input."""
    low, high = torch.clamp(x.min(), max=0.0), torch.clamp(x.max(), min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale == 0, 1.0, scale)
    point = torch.clamp(torch.round(0.0 - low / scale), 0, 255)
    codes = torch.clamp(torch.round(x / scale) + point, 0, 255)
    return codes.to(torch.uint8), scale, point.to(torch.uint8)


@operator("MatMulInteger", layer=True)
def matmul_integer(
    a: Tensor, b: Tensor, a_point: Tensor | None = None, b_point: Tensor | None = None
) -> Tensor:
    """The product of integer matrices, int32; its sums are taken in float32, see `qlinear`."""
    left, right = a.to(torch.float32), b.to(torch.float32)
    if a_point is not None:
        point = a_point.to(torch.float32)
        left = left - (point[:, None] if point.ndim == 1 and point.numel() > 1 else point)
    if b_point is not None:
        right = right - b_point.to(torch.float32)
    return torch.matmul(left, right).to(torch.int32)
