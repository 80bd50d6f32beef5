"""A network that takes 8-bit pixels: their normalisation becomes part of the graph.

An image file holds a byte per channel; networks are trained on (pixel * scale - mean) / std. In
front of the network the pixels are a quarter of the floats, and a program in C needs no arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

NETWORK = "network"
"""Name of the wrapped network, which precedes the names of its layers."""


class ByteInput(nn.Module):
    """uint8 images -> float32 normalisation -> a network.

    Each step rounds to float32 once, as numpy does in `tvm_insta.runtime.preprocess.normalise`. A
    float32 product followed by a float32 difference could be contracted to one operation with one
    rounding; so the product is taken in float64, where it is exact (8 bits times 24), and rounded.

    Args:
        network: what takes the normalised images.
        scale: the pixels are multiplied by it, rounded to float32.
        mean: one number per channel, or none at all.
        std: one number per channel, or none at all.
        channel_axis: of the images, 1 ([N, C, H, W]) or 3 ([N, H, W, C]).
    """

    scale: torch.Tensor
    mean: torch.Tensor | None
    std: torch.Tensor | None

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: float,
        mean: Sequence[float],
        std: Sequence[float],
        channel_axis: int,
    ) -> None:
        super().__init__()
        shape = [1, 1, 1, 1]
        shape[channel_axis] = -1
        self.network = network
        self.register_buffer("scale", torch.tensor([np.float32(scale)], dtype=torch.float64))
        for name, values in (("mean", mean), ("std", std)):
            numbers = torch.tensor(list(values), dtype=torch.float32).reshape(shape)
            self.register_buffer(name, numbers if values else None)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the network on pixels ``[N, C, H, W]`` or ``[N, H, W, C]`` uint8."""
        x = (pixels.to(torch.float64) * self.scale).to(torch.float32)
        if self.mean is not None:
            x = x - self.mean
        if self.std is not None:
            x = x / self.std
        result: torch.Tensor = self.network(x)
        return result
