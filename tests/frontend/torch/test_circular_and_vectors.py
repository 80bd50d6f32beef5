"""Circular padding moves levels; a product of a single vector is a layer, too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta


class Circular(nn.Module):
    def __init__(self, pads, mode="circular"):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 12, 3, 3, generator=generator))
        self.pads, self.mode = pads, mode

    def forward(self, x):
        y = F.pad(torch.sign(x), self.pads, mode=self.mode)
        return F.conv2d(y, self.weight.sign()).flatten(1)


@pytest.mark.parametrize(
    "pads", [(1, 1, 1, 1), (2, 0, 1, 3), (-1, 2, 1, -2), (0, 0, 1, 1), (7, 7, 6, 6)]
)
def test_binary_layer_behind_circular_padding(pads):
    network = Circular(pads).eval()
    x = torch.randn(3, 12, 6, 7, generator=torch.Generator().manual_seed(1))
    artefact = tvm_insta.build(network, x[:1], max_batch=3)
    assert [layer.kind for layer in artefact.manifest.layers] == ["binary"]
    with torch.no_grad():
        assert (artefact(x.numpy()) == network(x).numpy()).all()


class Vector(nn.Module):
    """A product of one vector, without a batch: weights of a gate that all positions share."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(32, 12, generator=generator))
        self.second = nn.Parameter(torch.randn(12, 32, generator=generator))

    def forward(self, x):
        gate = F.linear(torch.sign(F.linear(x.mean((0, 2, 3)), self.first)), self.second.sign())
        return (x * gate[None, :, None, None]).mean((2, 3))


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_products_of_one_vector(runtime):
    network = Vector().eval()
    x = torch.randn(1, 12, 5, 5, generator=torch.Generator().manual_seed(1))
    artefact = tvm_insta.build(network, x, max_batch=1, runtime=runtime)
    assert [layer.kind for layer in artefact.manifest.layers] == ["float", "binary"]
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(artefact(x.numpy())), network(x), atol=1e-5)
