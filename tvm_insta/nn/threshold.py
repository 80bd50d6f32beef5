"""Modules that turn a float activation into bits: RSign, INSTA-Th and INSTA-Th+.

The INSTA equations are *reconstructed* from the paper's description (INSTA-BNN, ICCV 2023); the
authors published no code, and these are not quoted from them.
"""

from __future__ import annotations

import torch
from torch import nn

from tvm_insta.nn.binarise import binarise_activation
from tvm_insta.nn.statistics import (
    DEFAULT_STATISTIC,
    check_statistic,
    measure,
    per_channel,
    per_instance,
)

SE_REDUCTION = 16


class RSign(nn.Module):
    """Binarisation with one learned constant threshold per channel (ReActNet).

    `bit = (X >= b[c])`. ReActNet writes sign(X + beta): b is -beta, and 0 at the start.

    Args:
        channels: C of the input.

    Attributes:
        b: Parameter `[C]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.b = nn.Parameter(torch.zeros(channels))

    def thresholds(self, x: torch.Tensor, statistic: torch.Tensor | None = None) -> torch.Tensor:
        """Give the thresholds that x is compared with.

        Args:
            x: `[N, C, H, W]` or `[N, C]` float.
            statistic: Not used here; the instance-aware modules take it.

        Returns:
            A tensor that broadcasts against x: `[1, C, 1, 1]` or `[1, C]`.
        """
        del statistic
        return per_channel(self.b, x.dim())

    def forward(self, x: torch.Tensor, statistic: torch.Tensor | None = None) -> torch.Tensor:
        """Binarise.

        Args:
            x: `[N, C, H, W]` float (`RSign` also takes `[N, C]`).
            statistic: `[N, C]`, a statistic measured elsewhere that an instance-aware module is to
                use in place of its own.

        Returns:
            +1 where x reaches its threshold, else -1; the shape of x.
        """
        thresholds = self.thresholds(x, statistic)
        return binarise_activation(x, thresholds, training=self.training)

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"{self.channels}"


class InstaThreshold(RSign):
    """INSTA-Th: the threshold follows a statistic of the instance (reconstructed).

    `TH[n,c] = a[c] * m[n,c] + b[c]`, where m is E[X^3] over height and width by default. a and b
    start at 0, so training starts exactly at RSign. The gradient also goes through m.

    Args:
        channels: C of the input.
        statistic: One of `tvm_insta.nn.STATISTICS`.

    Attributes:
        a: Parameter `[C]`.
        b: Parameter `[C]`.

    Raises:
        ModelError: The statistic is unknown.
    """

    def __init__(self, channels: int, *, statistic: str = DEFAULT_STATISTIC) -> None:
        super().__init__(channels)
        self.statistic = check_statistic(statistic)
        self.a = nn.Parameter(torch.zeros(channels))

    def thresholds(self, x: torch.Tensor, statistic: torch.Tensor | None = None) -> torch.Tensor:
        """Give the thresholds that x is compared with.

        Args:
            x: `[N, C, H, W]` float.
            statistic: `[N, C]`, measured elsewhere; None measures that of x.

        Returns:
            `[N, C, 1, 1]`.
        """
        m = measure(x, self.statistic, training=self.training) if statistic is None else statistic
        return per_instance(self.affine(m))

    def affine(self, m: torch.Tensor) -> torch.Tensor:
        """Map statistics to thresholds.

        Args:
            m: `[N, C]`.

        Returns:
            `[N, C]`.
        """
        return self.a * m + self.b

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        return f"{self.channels}, statistic={self.statistic!r}"


class InstaThresholdPlus(InstaThreshold):
    """INSTA-Th+: INSTA-Th with a squeeze-and-excitation-like block (reconstructed).

    `TH[n,c] = a[c] * m[n,c] + b[c] + tanh(FC2(relu(FC1(m[n,:]))))[c]`, with FC1: C -> C / r and
    FC2: C / r -> C. FC2 starts at zero, so training starts exactly at INSTA-Th.

    Args:
        channels: C of the input.
        statistic: One of `tvm_insta.nn.STATISTICS`.
        reduction: r; the hidden layer has max(1, C // r) units.
    """

    def __init__(
        self,
        channels: int,
        *,
        statistic: str = DEFAULT_STATISTIC,
        reduction: int = SE_REDUCTION,
    ) -> None:
        super().__init__(channels, statistic=statistic)
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def affine(self, m: torch.Tensor) -> torch.Tensor:
        """Map statistics to thresholds.

        Args:
            m: `[N, C]`.

        Returns:
            `[N, C]`.
        """
        excitation = torch.tanh(self.fc2(torch.relu(self.fc1(m))))
        return super().affine(m) + excitation
