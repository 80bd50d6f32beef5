"""Normalisations, with stored statistics and with those of the input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import (
    Context,
    Result,
    axis_of,
    operator,
    require_float,
)


def _channels(x: Tensor, *vectors: Tensor) -> None:
    for vector in vectors:
        if x.ndim < 2 or vector.ndim != 1 or vector.shape[0] != x.shape[1]:
            raise ImportModelError(
                f"a vector of shape {list(vector.shape)} does not fit the channels of an input of "
                f"{x.ndim} dimensions"
            )


@operator("BatchNormalization", ignored=("momentum", "consumed_inputs"))
def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    spatial: bool = True,
    training_mode: bool = False,
    context: Context,
) -> Result:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` per channel."""
    if training_mode or context.outputs > 1:
        raise ImportModelError("it is in training mode: export the model in evaluation mode")
    if not spatial:
        raise ImportModelError("spatial is 0, but only one mean per channel is taken")
    _channels(x, scale, bias, mean, variance)
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


@operator("InstanceNormalization")
def instance_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    """Each channel of each image normalised by its own mean and variance."""
    _channels(x, scale, bias)
    axes = tuple(range(2, x.ndim))
    shape = (1, -1) + (1,) * len(axes)
    return _standardised(x, axes, epsilon) * scale.reshape(shape) + bias.reshape(shape)


def _standardised(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    if not axes:
        raise ImportModelError(f"an input of {x.ndim} dimensions has nothing to normalise over")
    centred = require_float(x, "its input") - x.mean(axes, keepdim=True)
    variance = (centred * centred).mean(axes, keepdim=True)
    return centred / torch.sqrt(variance + epsilon)


@operator("LayerNormalization", ignored=("stash_type",))
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    context: Context,
) -> Result:
    """Normalised over all axes from ``axis`` on."""
    if context.outputs > 1:
        raise ImportModelError("its second and third output, the statistics, are not taken")
    first = axis_of(axis, x.ndim)
    result = _standardised(x, tuple(range(first, x.ndim)), epsilon) * scale
    return result if bias is None else result + bias


@operator("RMSNormalization", ignored=("stash_type",))
def rms_normalization(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Divided by the root of the mean square over all axes from ``axis`` on."""
    axes = tuple(range(axis_of(axis, x.ndim), x.ndim))
    square = (require_float(x, "its input") * x).mean(axes, keepdim=True)
    return x / torch.sqrt(square + epsilon) * scale


@operator("GroupNormalization", ignored=("stash_type",))
def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalised over groups of channels; ONNX withdrew version 18, with one scale per group."""
    if num_groups < 1 or x.ndim < 2 or x.shape[1] % num_groups:
        raise ImportModelError(f"{num_groups} groups do not divide the channels of its input")
    size = x.shape[1] // num_groups
    _channels(x, scale, bias)
    grouped = x.reshape([x.shape[0], num_groups, size, *x.shape[2:]])
    normal = _standardised(grouped, tuple(range(2, grouped.ndim)), epsilon).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return normal * scale.reshape(shape) + bias.reshape(shape)


@operator("LRN")
def local_response(
    x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int
) -> Tensor:
    """Divided by a power of the squares of ``size`` neighbouring channels."""
    if not 1 <= size <= 64 or x.ndim < 3:
        raise ImportModelError(f"size is {size}, but 1 to 64 channels are taken")
    square = F.pad(x * x, [0, 0] * (x.ndim - 2) + [(size - 1) // 2, size // 2])
    channels = x.shape[1]
    total = square.narrow(1, 0, channels)
    for k in range(1, size):
        total = total + square.narrow(1, k, channels)
    return x / (bias + alpha / size * total).pow(beta)


@operator("LpNormalization")
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divided by the p-norm along an axis; 0 where the norm is 0."""
    if p not in (1, 2):
        raise ImportModelError(f"p is {p}, but 1 and 2 are taken")
    size = x.abs().sum(axis, True) if p == 1 else torch.sqrt((x * x).sum(axis, True))
    return torch.where(size == 0, 0.0, x / size)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(x: Tensor, *, axes: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    """Mean 0 and variance 1 over ``axes``."""
    dims = tuple(axis_of(axis, x.ndim) for axis in axes)
    centred = x - x.mean(dims, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(dims, keepdim=True)) + 1e-9)
