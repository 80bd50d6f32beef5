"""Activations of 1 to 4 bits, for bit-serial layers with 1-bit weights.

INSTA-BNN uses one bit; more bits are the general case of the same kernels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tvm_insta.errors import ModelError
from tvm_insta.nn.binarise import step_slope
from tvm_insta.nn.messages import unknown

ENCODINGS = ("unsigned", "bipolar")
MAX_BITS = 4


class _LevelStep(torch.autograd.Function):
    """1 or 0 by comparison; the gradient is a triangle of area 1 around the threshold."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        threshold: torch.Tensor,
        step: float,
    ) -> torch.Tensor:
        ctx.save_for_backward((x - threshold) / step)
        ctx.step = step
        ctx.shapes = (x.shape, threshold.shape)
        return torch.where(x >= threshold, 1.0, 0.0).to(x.dtype)

    @staticmethod
    def backward(
        ctx: Any,
        *grads: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        (distance,) = ctx.saved_tensors
        x_shape, threshold_shape = ctx.shapes
        # step_slope belongs to a step of height 2; this one has height 1.
        grad = grads[0] * (0.5 * step_slope(distance) / ctx.step)
        return grad.sum_to_size(x_shape), -grad.sum_to_size(threshold_shape), None


class MultiBitActivation(nn.Module):
    """Quantise an activation by comparing it with 2**bits - 1 thresholds.

    The code is the number of thresholds that x reaches. "unsigned" returns the code,
    0 .. 2**bits - 1; "bipolar" returns `2 * code - (2**bits - 1)`. The thresholds are parameters,
    `step` apart at the start: at 0.5, 1.5, ... times step for "unsigned", around 0 for "bipolar".
    In training each level has a triangular gradient of half-width `step`; evenly spaced triangles
    add up to a straight line, so inside the range the gradient is that of x / step (twice it for
    "bipolar"). One bipolar bit with step 1 is RSign with ReActNet's gradient.

    Args:
        bits: 1 to 4.
        encoding: "unsigned" or "bipolar".
        channels: C for one set of thresholds per channel; None for one set in all.
        step: Distance of neighbouring thresholds at the start, > 0.

    Attributes:
        thresholds: Parameter `[2**bits - 1, C]`, or `[2**bits - 1, 1]`.

    Raises:
        ModelError: bits, encoding, channels or step is outside what is allowed.
    """

    def __init__(
        self,
        bits: int,
        *,
        encoding: str = "unsigned",
        channels: int | None = None,
        step: float = 1.0,
    ) -> None:
        super().__init__()
        if not 1 <= bits <= MAX_BITS:
            raise ModelError(f"MultiBitActivation got bits={bits}; allowed are 1 to {MAX_BITS}")
        if encoding not in ENCODINGS:
            raise unknown("activation encoding", encoding, ENCODINGS)
        if channels is not None and channels < 1:
            raise ModelError(f"MultiBitActivation got channels={channels}; it must be at least 1")
        if not step > 0:
            raise ModelError(f"MultiBitActivation got step={step}; it must be positive")
        self.bits = bits
        self.encoding = encoding
        self.step = step
        levels = 2**bits - 1
        first = 0.5 if encoding == "unsigned" else -(levels - 1) / 2
        start = step * (torch.arange(levels, dtype=torch.float32) + first)
        self.thresholds = nn.Parameter(start.view(-1, 1).repeat(1, channels or 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise.

        Args:
            x: `[N, C, H, W]` or `[N, C]` float.

        Returns:
            Integers as float, the shape of x.
        """
        levels = self.thresholds.view([2**self.bits - 1, 1, -1] + [1] * (x.dim() - 2))
        code = self._reached(x, levels[0])
        for index in range(1, 2**self.bits - 1):
            code = code + self._reached(x, levels[index])
        if self.encoding == "unsigned":
            return code
        return 2.0 * code - (2.0**self.bits - 1.0)

    def _reached(self, x: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        if self.training:
            result: torch.Tensor = _LevelStep.apply(  # type: ignore[no-untyped-call]
                x, threshold, self.step
            )
            return result
        return torch.where(x >= threshold, 1.0, 0.0)

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"bits={self.bits}, encoding={self.encoding!r}, thresholds={self.thresholds.shape}"
