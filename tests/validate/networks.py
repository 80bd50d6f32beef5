"""A small network with one of everything in which a compiler can go wrong."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SHAPE = (1, 3, 8, 8)


class Everything(nn.Module):
    """Stem with padding on one side and a strided side; pools; signs of zeros; instance thresholds.

    ``[N, 3, 8, 8] -> [N, 10]``. Its scales keep activations of all layers near 1.
    """

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def normal(*shape, scale=1.0):
            return nn.Parameter(torch.randn(*shape, generator=generator) * scale)

        self.stem, self.bias = normal(32, 3, 3, 3, scale=0.3), normal(32, scale=0.3)
        self.first, self.second = normal(32, 32, 3, 3), normal(32, 32, 3, 3)
        self.third = normal(16, 32, 3, 3)
        self.scale = nn.Parameter(torch.rand(32, generator=generator) * 0.1 + 0.02)
        self.slope = nn.Parameter(torch.rand(32, generator=generator) * 0.5)
        self.gain = nn.Parameter(torch.rand(32, generator=generator) + 0.2)
        self.head, self.last = normal(10, 16, scale=0.3), normal(10, scale=0.3)

    def forward(self, x):
        x = F.conv2d(F.pad(x, (0, 1, 0, 1)), self.stem, self.bias, dilation=1)
        x = F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, stride=1, divisor_override=3)
        x = F.relu(x)
        y = F.conv2d(torch.sign(x), torch.sign(self.first), padding=1)
        x = F.prelu(y * self.scale.view(-1, 1, 1) - x, self.slope)
        t = (x * x).mean((2, 3), keepdim=True) * self.gain.view(-1, 1, 1) * 0.1
        bits = torch.where(x >= t, 1.0, -1.0)
        y = F.conv2d(bits, torch.sign(self.second), padding=1)
        x = y * self.scale.view(-1, 1, 1) + x
        bits = torch.round(torch.clamp(x, 0, 1) * 3) / 3
        y = F.conv2d(bits, torch.sign(self.third), stride=(2, 1), padding=1) * 0.05
        return F.linear(y.mean((2, 3)), self.head, self.last)
