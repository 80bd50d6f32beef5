"""Binarisation of activations and weights, and the gradients that stand in for its derivative.

A bit is `X >= TH`: bit 1 is the value +1, bit 0 is -1. `torch.sign` is not used, because it has a
third value at 0, for which a bit has no room; here a value on its threshold is +1.

Training goes through `torch.autograd.Function`; evaluation uses plain comparisons, so that
`torch.export` sees nothing but aten operators. Both give the same values.
"""

from __future__ import annotations

from typing import Any

import torch


def step_slope(distance: torch.Tensor) -> torch.Tensor:
    """Give the slope of ReActNet's piecewise-quadratic stand-in for the sign function.

    The slope is `2 + 2u` on [-1, 0), `2 - 2u` on [0, 1) and 0 elsewhere, that is
    `max(0, 2 - 2 |u|)`; its integral is 2, the height of the step from -1 to +1.

    Args:
        distance: u = X - TH, any shape.

    Returns:
        The slope at u, same shape.
    """
    return torch.clamp(2.0 - 2.0 * distance.abs(), min=0.0)


def sum_to(values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Add up what was broadcast, rows and columns first.

    Compiled code adds a few thousand values of a channel faster than a few ten thousand, for which
    it keeps sums of sums against rounding; in two steps each sum is short.

    Args:
        values: Of any shape that `shape` broadcasts to.
        shape: Of the result.
    """
    if values.dim() == 4 and shape[2:] == (1, 1):
        values = values.sum(dim=(2, 3), keepdim=True)
    return values.sum_to_size(shape)


class _ActivationStep(torch.autograd.Function):
    """+-1 by comparison; the gradient is that of `step_slope`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        # Not their difference: that would be one more tensor of the size of x for each layer.
        ctx.save_for_backward(x, threshold)
        return torch.where(x >= threshold, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, threshold = ctx.saved_tensors
        grad = grads[0] * step_slope(x - threshold)
        return grad.sum_to_size(x.shape), -sum_to(grad, threshold.shape)


class _WeightSign(torch.autograd.Function):
    """+-1 by comparison with 0; the gradient passes where |W| <= 1."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (weight,) = ctx.saved_tensors
        return torch.where(weight.abs() <= 1.0, grads[0], 0.0)


def binarise_activation(
    x: torch.Tensor, threshold: torch.Tensor, *, training: bool
) -> torch.Tensor:
    """Compare an activation with its thresholds.

    Args:
        x: Any shape, float.
        threshold: Broadcasts against x.
        training: True gives the straight-through gradient for x and for the threshold; False
            gives plain aten operators without a gradient.

    Returns:
        +1 where `x >= threshold`, else -1 (NaN compares false: -1); the shape of x.
    """
    if training:
        result: torch.Tensor = _ActivationStep.apply(x, threshold)  # type: ignore[no-untyped-call]
        return result
    return torch.where(x >= threshold, 1.0, -1.0)


def binarise_weight(weight: torch.Tensor, *, training: bool) -> torch.Tensor:
    """Take the sign of a weight, with sign(0) = +1.

    Args:
        weight: Any shape, float.
        training: True gives a gradient of 1 where |W| <= 1 and 0 elsewhere.

    Returns:
        +1 where `weight >= 0`, else -1; the shape of weight.
    """
    if training:
        result: torch.Tensor = _WeightSign.apply(weight)  # type: ignore[no-untyped-call]
        return result
    return torch.where(weight >= 0, 1.0, -1.0)
