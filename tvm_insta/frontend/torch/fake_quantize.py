"""PyTorch's fake quantisation, which torch.export cannot trace, as the operators it stands for.

    code = clamp(round(x * (1 / scale)) + zero_point, quant_min, quant_max)
    fake_quantize(x) = (code - zero_point) * scale

`torch.ao.quantization` calls it in networks prepared for quantisation-aware training. The factor is
the float32 reciprocal, as in PyTorch's kernel, and NaN becomes the smallest code, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tvm_insta.errors import ImportModelError


def per_tensor(
    input: torch.Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int
) -> torch.Tensor:
    """`torch.fake_quantize_per_tensor_affine`: scale and zero point are numbers or tensors."""
    scale = torch.as_tensor(scale, dtype=torch.float32).reshape(())
    zero_point = torch.as_tensor(zero_point).to(torch.float32).reshape(())
    return _quantised(input, scale, zero_point, quant_min, quant_max)


def per_channel(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    axis: int,
    quant_min: int,
    quant_max: int,
) -> torch.Tensor:
    """`torch.fake_quantize_per_channel_affine`: one scale and zero point for each channel."""
    shape = [1] * input.ndim
    shape[axis] = -1
    scale, zero_point = scale.reshape(shape), zero_point.to(torch.float32).reshape(shape)
    return _quantised(input, scale, zero_point, quant_min, quant_max)


def without_observer(
    input: torch.Tensor,
    observer_on: torch.Tensor,
    fake_quant_on: torch.Tensor,
    running_min: torch.Tensor,
    running_max: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor,
    averaging_const: float,
    quant_min: int,
    quant_max: int,
    ch_axis: int,
    per_row_fake_quant: bool = False,
    symmetric_quant: bool = False,
) -> torch.Tensor:
    """`torch.fused_moving_avg_obs_fake_quant`, as it is once ranges are no longer observed."""
    if observer_on.item():
        raise ImportModelError(
            "a module observes the ranges of its input in eval mode, too: call "
            "model.apply(torch.ao.quantization.disable_observer) before compiling it"
        )
    if not fake_quant_on.item():
        return input
    if per_row_fake_quant:
        return per_channel(input, scale, zero_point, ch_axis, quant_min, quant_max)
    return per_tensor(input, scale, zero_point, quant_min, quant_max)


def _quantised(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    number = torch.where(torch.isnan(x), -torch.inf, x)
    code = torch.clamp(torch.round(number * scale.reciprocal()) + zero_point, low, high)
    return (code - zero_point) * scale


WRITTEN_OUT: dict[Any, Callable[..., torch.Tensor]] = {
    torch.fake_quantize_per_tensor_affine: per_tensor,
    torch.fake_quantize_per_channel_affine: per_channel,
    torch.fused_moving_avg_obs_fake_quant: without_observer,
}
"""What stands for a function of PyTorch's."""
