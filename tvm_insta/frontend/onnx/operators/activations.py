"""Activation functions with attributes, and the softmax family."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_insta.frontend.onnx.operators.registry import (
    Context,
    axis_of,
    operator,
    require_float,
)


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """``alpha * x`` below 0."""
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """``slope * x`` below 0; one slope, one per channel, or any that broadcasts."""
    if slope.numel() == 1:
        return F.prelu(x, slope.reshape(1))
    channels_first = x.ndim > 1 and slope.numel() == x.shape[1]
    full = (1,) * (x.ndim - slope.ndim) + tuple(slope.shape)
    if channels_first and full[1:2] == (x.shape[1],):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``alpha * (exp(x) - 1)`` below 0."""
    return F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``max(0, x) + min(0, alpha * (exp(x / alpha) - 1))``."""
    return F.celu(x, alpha)


@operator("Selu")
def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    """``gamma`` times ELU."""
    return F.elu(x, alpha) * gamma


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x`` above ``alpha``, else 0."""
    return torch.where(x > alpha, x, 0.0)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """``alpha * x + beta`` between 0 and 1."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@operator("Gelu")
def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """The Gaussian error linear unit."""
    return F.gelu(x, approximate=approximate)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Move by ``bias`` towards 0, and to 0 within ``lambd``."""
    shrunk = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0.0))
    return shrunk.to(x.dtype)


def _softmax_axis(x: Tensor, axis: int | None, context: Context) -> tuple[Tensor, int]:
    """Before version 13 all axes from ``axis`` on were one."""
    require_float(x, "its input")
    if context.opset >= 13:
        return x, axis_of(-1 if axis is None else axis, x.ndim)
    first = axis_of(1 if axis is None else axis, x.ndim)
    if first == x.ndim - 1:
        return x, first
    return x.flatten(first), first


@operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, context: Context) -> Tensor:
    """Exponentials, divided by their sum."""
    flat, dim = _softmax_axis(x, axis, context)
    return torch.softmax(flat, dim).reshape(x.shape)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, context: Context) -> Tensor:
    """Logarithm of the softmax."""
    flat, dim = _softmax_axis(x, axis, context)
    return torch.log_softmax(flat, dim).reshape(x.shape)


@operator("Hardmax")
def hardmax(x: Tensor, *, axis: int | None = None, context: Context) -> Tensor:
    """1 at the first largest, 0 elsewhere."""
    flat, dim = _softmax_axis(x, axis, context)
    best = flat.argmax(dim, keepdim=True)
    shape = [1] * flat.ndim
    shape[dim] = -1
    positions = torch.arange(flat.shape[dim]).reshape(shape)
    return (positions == best).to(x.dtype).reshape(x.shape)
