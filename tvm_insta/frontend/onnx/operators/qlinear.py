"""Convolutions and products of quantised tensors, as ONNX Runtime's quantiser writes them.

Integers of 8 bits are exact in float32, and so are their sums up to 2^24, that is 258 products of
full range and several thousand of usual ones; beyond that the result may differ in its last digit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators import layers
from tvm_insta.frontend.onnx.operators.quantise import check_scale
from tvm_insta.frontend.onnx.operators.registry import Codes, Constant, operator
from tvm_insta.frontend.onnx.operators.window import AutoPad
from tvm_insta.frontend.onnx.tensors import bounds


def _centred(x: Tensor | Codes, point: Constant | Tensor | None, axis: int = -1) -> Tensor:
    """The integers less their zero point, in float32; a computed one must be one number."""
    values = x.values if isinstance(x, Codes) else x.to(torch.float32)
    if isinstance(point, Tensor):
        if point.numel() != 1:
            raise ImportModelError(
                f"its zero point of shape {list(point.shape)} is computed, but must be one number"
            )
        return values - point.to(torch.float32).reshape(())
    if point is None or not point.array.any():
        return values
    return values - _along(point, values, axis)


def _along(value: Constant, x: Tensor, axis: int) -> Tensor | float:
    """A number, or one per element of an axis of ``x``."""
    if value.array.size == 1:
        return float(value.array.reshape(-1)[0])
    if value.array.ndim != 1 or value.array.size != x.shape[axis]:
        raise ImportModelError(
            f"a scale or zero point of shape {list(value.array.shape)} does not fit {list(x.shape)}"
        )
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.tensor.to(torch.float32).reshape(shape)


def _requantised(
    sums: Tensor, scales: tuple[Constant, Constant, Constant], point: Constant, axis: int
) -> Codes:
    """Integer sums as codes of the result's scale."""
    for scale in scales:
        check_scale(scale)
    x_scale, w_scale, y_scale = scales
    if x_scale.array.size != 1 or y_scale.array.size != 1:
        raise ImportModelError("the scales of its input and its result must be one number each")
    ratio = x_scale.array.reshape(-1) * w_scale.array.reshape(-1) / y_scale.array.reshape(-1)
    factor = Constant(ratio, w_scale.element, torch.from_numpy(ratio))
    low, high = bounds(point.element)
    codes = torch.round(sums * _along(factor, sums, axis)) + float(point.array.reshape(-1)[0])
    return Codes(torch.clamp(codes, low, high), point.element)


@operator("QLinearConv", layer=True)
def qlinear_conv(
    x: Tensor | Codes,
    x_scale: Constant,
    x_point: Constant,
    w: Tensor,
    w_scale: Constant,
    w_point: Constant,
    y_scale: Constant,
    y_point: Constant,
    b: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Codes:
    """Convolution of codes; the pads are the zero point."""
    sums = layers.conv(
        _centred(x, x_point),
        _centred(w, w_point, 0),
        None if b is None else b.to(torch.float32),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return _requantised(sums, (x_scale, w_scale, y_scale), y_point, 1)


@operator("QLinearMatMul", layer=True)
def qlinear_matmul(
    a: Tensor | Codes,
    a_scale: Constant,
    a_point: Constant,
    b: Tensor,
    b_scale: Constant,
    b_point: Constant,
    y_scale: Constant,
    y_point: Constant,
) -> Codes:
    """Product of codes."""
    sums = torch.matmul(_centred(a, a_point), _centred(b, b_point))
    return _requantised(sums, (a_scale, b_scale, y_scale), y_point, -1)


@operator("ConvInteger", layer=True)
def conv_integer(
    x: Tensor | Codes,
    w: Tensor,
    x_point: Tensor | None = None,
    w_point: Constant | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Convolution of integers, int32."""
    return layers.conv(
        _centred(x, x_point),
        _centred(w, w_point, 0),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    ).to(torch.int32)
