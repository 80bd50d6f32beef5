"""Numbers of random networks: exact ones, whose every sum and product is exact in float32, or real.

Exact numbers are small multiples of powers of two. A network made of them gives the same bits in
whatever order it adds, so what differs from PyTorch by anything at all is wrong. They also meet
thresholds and cancel to 0 all the time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

T = TypeVar("T")


@dataclass
class Numbers:
    """A source of random choices.

    Attributes:
        seed: of everything that is drawn.
        exact: whether drawn numbers are small multiples of powers of two.
    """

    seed: int
    exact: bool

    def __post_init__(self):
        self.random = random.Random(self.seed)
        self.torch = torch.Generator().manual_seed(self.seed)

    def choose(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def tensor(self, *shape: int, step: float = 0.25, most: int = 8) -> torch.Tensor:
        """Multiples of ``step`` from ``-most`` to ``most`` of them, or normal numbers."""
        if not self.exact:
            return torch.randn(shape, generator=self.torch) * (step * most / 2)
        return torch.randint(-most, most + 1, shape, generator=self.torch) * step

    def number(self, step: float = 0.25, most: int = 4) -> float:
        return float(self.tensor(1, step=step, most=most))

    def scales(self, *shape: int) -> torch.Tensor:
        """Positive numbers about 0.5."""
        if not self.exact:
            return torch.rand(shape, generator=self.torch) + 0.1
        return 2.0 ** torch.randint(-3, 1, shape, generator=self.torch)

    def scale(self) -> float:
        return float(self.scales(1))

    def batch_norm(self, kind: Any, channels: int) -> nn.Module:
        """Inference statistics, with negative and zero factors among them."""
        norm = kind(channels, eps=0.0 if self.exact else 1e-5).eval()
        signs = torch.randint(0, 2, (channels,), generator=self.torch) * 2 - 1
        with torch.no_grad():
            norm.weight.copy_(self.scales(channels) * signs)
            if self.chance(0.2):
                norm.weight[self.random.randrange(channels)] = 0.0
            norm.bias.copy_(self.tensor(channels))
            norm.running_mean.copy_(self.tensor(channels, step=0.5))
            power = 4.0 ** torch.randint(0, 3, (channels,), generator=self.torch)
            norm.running_var.copy_(power if self.exact else power * self.scales(channels))
        return norm
