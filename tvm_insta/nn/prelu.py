"""Activation functions of the float path: RPReLU and INSTA-PReLU.

The INSTA equation is *reconstructed* from the paper's description; it is not quoted from the
authors, who published no code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tvm_insta.nn.binarise import sum_to
from tvm_insta.nn.statistics import (
    DEFAULT_STATISTIC,
    check_statistic,
    measure,
    per_channel,
    per_instance,
)

INITIAL_SLOPE = 0.25


class _ShiftedPReLU(torch.autograd.Function):
    """`PReLU(x - shift)`: the derivatives of slope and shift are summed in one pass over x."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, shift: torch.Tensor, slope: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, shift, slope)
        return F.prelu(x - shift, slope)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x, shift, slope = ctx.saved_tensors
        (grad,) = grads
        shifted, wide = x - shift, per_channel(slope, x.dim())
        for_x = torch.where(shifted > 0, grad, grad * wide)
        for_slope = sum_to(grad * shifted.clamp(max=0.0), wide.shape).view(-1)
        return for_x, -sum_to(for_x, shift.shape), for_slope


class RPReLU(nn.Module):
    """PReLU with a learned shift before and after, per channel (ReActNet).

    `y = PReLU_c(x - g0[c]) + z[c]`, the slope for negative values is learned per channel and starts
    at 0.25; ReActNet adds its first shift, here it is subtracted.

    Args:
        channels: C of the input.

    Attributes:
        g0: Parameter `[C]`, the shift before.
        slope: Parameter `[C]`.
        z: Parameter `[C]`, the shift after.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.g0 = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), INITIAL_SLOPE))
        self.z = nn.Parameter(torch.zeros(channels))

    def measure(self, x: torch.Tensor) -> torch.Tensor | None:
        """Measure the statistic the shift depends on: here none.

        Args:
            x: `[N, C, H, W]` float.

        Returns:
            `[N, C]`, or None for a constant shift.
        """
        del x
        return None

    def shift(self, x: torch.Tensor, statistic: torch.Tensor | None = None) -> torch.Tensor:
        """Give the shift before the PReLU.

        Args:
            x: `[N, C, H, W]` or `[N, C]` float.
            statistic: Not used here; the instance-aware module takes it.

        Returns:
            A tensor that broadcasts against x.
        """
        del statistic
        return per_channel(self.g0, x.dim())

    def forward(self, x: torch.Tensor, statistic: torch.Tensor | None = None) -> torch.Tensor:
        """Apply the function.

        Args:
            x: `[N, C, H, W]` float (`RPReLU` also takes `[N, C]`).
            statistic: What `measure(x)` returned, if the caller needs it too; None measures.

        Returns:
            The shape of x.
        """
        shift = self.shift(x, statistic)
        result: torch.Tensor
        if self.training:
            result = _ShiftedPReLU.apply(x, shift, self.slope)  # type: ignore[no-untyped-call]
        else:
            result = F.prelu(x - shift, self.slope)
        return result + per_channel(self.z, x.dim())

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"{self.channels}"


class InstaPReLU(RPReLU):
    """INSTA-PReLU: the first shift follows a statistic of the instance (reconstructed).

    `y = PReLU_c(x - g[n,c]) + z[c]` with `g[n,c] = g0[c] + g1[c] * m[n,c]`, where m is E[x^3] of
    the input over height and width by default. g1 starts at 0, so training starts at RPReLU.

    Args:
        channels: C of the input.
        statistic: One of `tvm_insta.nn.STATISTICS`.

    Attributes:
        g1: Parameter `[C]`.

    Raises:
        ModelError: The statistic is unknown.
    """

    def __init__(self, channels: int, *, statistic: str = DEFAULT_STATISTIC) -> None:
        super().__init__(channels)
        self.statistic = check_statistic(statistic)
        self.g1 = nn.Parameter(torch.zeros(channels))

    def measure(self, x: torch.Tensor) -> torch.Tensor | None:
        """Measure the statistic the shift depends on.

        Args:
            x: `[N, C, H, W]` float.

        Returns:
            `[N, C]`.
        """
        return measure(x, self.statistic, training=self.training)

    def shift(self, x: torch.Tensor, statistic: torch.Tensor | None = None) -> torch.Tensor:
        """Give the shift before the PReLU.

        Args:
            x: `[N, C, H, W]` float.
            statistic: `[N, C]`, what `measure(x)` returned; None measures it.

        Returns:
            `[N, C, 1, 1]`.
        """
        m = measure(x, self.statistic, training=self.training) if statistic is None else statistic
        return per_instance(self.g1 * m + self.g0)

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"{self.channels}, statistic={self.statistic!r}"
