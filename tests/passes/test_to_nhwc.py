"""Every rule of the layout pass, and operators without one, against PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.networks import agree, calls, phases

X = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(0))
BIAS = torch.randn(8, generator=torch.Generator().manual_seed(1))


class Wrap(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        torch.manual_seed(0)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.function(self.conv(x))


CASES = {
    "elementwise": lambda y: torch.tanh(y) * 2 + torch.relu(-y),
    "channel vector": lambda y: y * BIAS[:, None, None],
    "image of one channel": lambda y: y * y[:, :1],
    "row vector": lambda y: y + torch.arange(5.0),
    "computed channel vector": lambda y: y * y.mean((2, 3))[:, :, None, None],
    "clip": lambda y: torch.clamp(y, -0.5, 0.5),
    "max pool": lambda y: F.max_pool2d(y, 3, 2, 1),
    "average pool": lambda y: F.avg_pool2d(y, 2, 2),
    "average pool without padding": lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
    "adaptive pool to one": lambda y: F.adaptive_avg_pool2d(y, 1),
    "adaptive pool": lambda y: F.adaptive_avg_pool2d(y, (3, 5)),
    "concatenation": lambda y: torch.cat([y, -y], 1),
    "concatenation of rows": lambda y: torch.cat([y, y], 2),
    "split": lambda y: torch.cat(list(reversed(torch.chunk(y, 2, 1))), 1),
    "slice": lambda y: y[:, 2:6, 1:, ::2],
    "pad": lambda y: F.pad(y, (1, 2, 0, 1)),
    "mean over the image": lambda y: y.mean((2, 3)),
    "mean over channels": lambda y: y.mean(1),
    "mean over rows": lambda y: y.mean(2),
    "sum with dimensions kept": lambda y: y.sum((1, 3), keepdim=True),
    "flatten": lambda y: y.flatten(1),
    "view of groups of channels": lambda y: y.reshape(-1, 2, 4, 6, 5).mean(2),
    "transposition": lambda y: y.transpose(2, 3) * 2,
    "channel shuffle": lambda y: y.reshape(-1, 2, 4, 6, 5).transpose(1, 2).reshape(-1, 8, 6, 5),
    "softmax": lambda y: torch.softmax(y, 1),
    "depth to space": lambda y: F.pixel_shuffle(y, 2),
    "upsampling": lambda y: F.interpolate(y, scale_factor=2.0, mode="nearest"),
}


@pytest.mark.parametrize("name", CASES)
def test_operators(name):
    module = Wrap(CASES[name])
    mod, _ = phases(module, X, last="to_nhwc")
    agree(module, mod, X, 2e-5)  # float32 sums of 72 products, then at most 30 of those


@pytest.mark.parametrize(
    "conv", [{"groups": 4}, {"dilation": 2}, {"stride": (2, 1)}, {"groups": 8}]
)
def test_convolutions(conv):
    torch.manual_seed(0)
    module = nn.Conv2d(8, 16, 3, padding=2, **conv)
    mod, _ = phases(module, X)
    agree(module, mod, X, 1e-5)


def test_a_chain_of_images_is_never_transposed_between():
    module = nn.Sequential(Wrap(torch.relu), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
    mod, _ = phases(module, X, last="to_nhwc")
    assert calls(mod).count("relax.permute_dims") == 2  # in and out
