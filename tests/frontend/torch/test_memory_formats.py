"""Where numbers lie in memory changes no answer: networks and images with channels last."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta
from tests.frontend.torch.graphs import exported, operators
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import import_torch

LAST = torch.channels_last


class Network(nn.Module):
    """A stem, a binary layer and pools: to one pixel, to one row, and to a few."""

    def __init__(self, channels=12, flat=False):
        super().__init__()
        generator = torch.Generator().manual_seed(channels)
        self.flat = flat
        self.stem = nn.Parameter(torch.randn(channels, 3, 3, 3, generator=generator))
        self.binary = nn.Parameter(torch.randn(8, channels, 3, 3, generator=generator))
        self.head = nn.Parameter(torch.randn(5, 8, generator=generator))

    def forward(self, x):
        if self.flat:
            x = x.permute(0, 3, 1, 2)
        y = torch.where(F.conv2d(x, self.stem, padding=1) >= 0, 1.0, -1.0)
        y = F.conv2d(y, self.binary.sign())
        row = F.adaptive_avg_pool2d(y, (1, 3)).flatten(1)
        pixel = F.adaptive_avg_pool2d(y, 1)
        return F.linear(pixel.flatten(1), self.head), row, F.adaptive_max_pool2d(pixel + y, 1)


@pytest.mark.parametrize("channels", [1, 12])
@pytest.mark.parametrize("what", ["network", "images", "both", "permuted"])
def test_channels_last(channels, what):
    network = Network(channels, flat=what == "permuted").eval()
    x = torch.randn(3, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    if what in ("network", "both"):
        network = network.to(memory_format=LAST)
    if what in ("images", "both"):
        x = x.to(memory_format=LAST)
    if what == "permuted":
        x = x.permute(0, 2, 3, 1).contiguous()
    artefact = tvm_insta.build(network, x[:1], max_batch=3)
    assert [layer.kind for layer in artefact.report.layers] == ["float", "binary", "float"]
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        for ours, theirs in zip(artefact(x.numpy()), network(x), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs)


def restrided(x, shape, strides):
    return torch.as_strided(x, [x.shape[0], *shape], [x[0].numel(), *strides]).sign()


def test_strides_of_the_same_elements_are_no_operator():
    x = torch.zeros(2, 6, 1, 1)
    graph = exported(lambda x: restrided(x, [6, 1, 1], [1, 77, 77]), x)
    assert operators(graph) == ["aten.sign.default"]


def test_strides_that_move_elements_are_refused():
    class Transposed(nn.Module):
        def forward(self, x):
            return restrided(x, [3, 2], [1, 3])

    with pytest.raises(ImportModelError, match="uses as_strided, which cannot be compiled"):
        import_torch(Transposed(), [torch.zeros(2, 2, 3)], max_batch=4, dynamic=True)
