"""What the families share: which of their layers are binary, and sane random statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


def random_images(count: int) -> torch.Tensor:
    """Noise about a colour of its own: ``[count, 3, 32, 32]`` float32, always the same."""
    generator = torch.Generator().manual_seed(7)
    colour = torch.randn(count, 3, 1, 1, generator=generator) * 2
    return torch.randn(count, 3, 32, 32, generator=generator) + colour


class Binary(nn.Module):
    """A module that computes products of few-valued activations and weights.

    Attributes:
        products: how many of them; the second one is called "NAME#2" in reports.
    """

    products = 1


@dataclass(frozen=True)
class Family:
    """A network as its public repository writes it.

    Attributes:
        name: for orientation.
        make: builds it from PyTorch's global random numbers.
    """

    name: str
    make: Callable[[], nn.Module]

    def network(self, images: torch.Tensor) -> nn.Module:
        """The network in eval mode; its batch norms normalise what these images give."""
        torch.manual_seed(0)
        network = self.make()
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
                _randomise(module)
        with torch.no_grad():
            network.train()(images)
        return network.eval()


def _randomise(norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm) -> None:
    """Random scales, a third of them negative, and offsets; statistics of the first batch."""
    if not isinstance(norm, nn.LayerNorm):
        norm.momentum = 1.0
    if norm.weight is not None:
        with torch.no_grad():
            sign = torch.where(torch.rand_like(norm.weight) < 1 / 3, -1.0, 1.0)
            norm.weight.copy_((torch.rand_like(norm.weight) + 0.5) * sign)
            norm.bias.copy_(torch.randn_like(norm.bias) * 0.3)


def binary_layers(network: nn.Module) -> list[str]:
    """The names of the layers that are binary, or of few bits, in the source."""
    found = []
    for path, module in network.named_modules():
        products = getattr(module, "products", 0)
        found += [path if at == 0 else f"{path}#{at + 1}" for at in range(products)]
    return sorted(found)
