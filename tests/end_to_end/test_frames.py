"""Networks that fold frames, views or patches into the batch: several rows for each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tvm_insta
from tests.passes.networks import Binary, Halving, tiny_resnet


def sign(x):
    return torch.where(x >= 0, 1.0, -1.0)


def above_moment(x):
    """Thresholds of the frame: what INSTA does."""
    return torch.where(x >= 0.3 * (x * x * x).mean((2, 3), keepdim=True), 1.0, -1.0)


class Frames(nn.Module):
    """``[N, T, C, H, W]``: each frame goes through a network for images, the scores are averaged.

    Args:
        network: of images.
        folded: how frames become images of a larger batch.
    """

    def __init__(self, network, folded):
        super().__init__()
        self.network, self.folded = network, folded

    def forward(self, x):
        y = self.network(self.folded(x))
        return y.reshape(x.shape[0], -1, *y.shape[1:]).mean(1).flatten(1)


# name: (network of images, how many binary layers it has, how frames become images)
NETWORKS = {
    "stem and sign": (
        lambda: nn.Sequential(
            nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), Binary(sign, 16, 8), nn.ReLU(), nn.AvgPool2d(2)
        ),
        1,
        lambda x: x.flatten(0, 1),
    ),
    "moments": (
        lambda: nn.Sequential(
            Binary(above_moment, 8, 40), nn.PReLU(40), Binary(above_moment, 40, 8), nn.MaxPool2d(2)
        ),
        2,
        lambda x: x.view(-1, *x.shape[2:]),
    ),
    "shortcuts": (
        lambda: nn.Sequential(nn.Conv2d(8, 32, 1), Halving()),
        3,
        lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]),
    ),
    "resnet": (
        lambda: nn.Sequential(nn.Conv2d(8, 3, 1), tiny_resnet()),
        2,
        lambda x: x.transpose(0, 1).transpose(0, 1).flatten(0, 1),
    ),
    "dense": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(512, 64), nn.LayerNorm(64), nn.Linear(64, 3)),
        0,
        lambda x: x.flatten(0, 1),
    ),
}


@pytest.mark.parametrize("runtime", ["vm", "c"])
@pytest.mark.parametrize("name", NETWORKS)
def test_frames_are_images(name, runtime):
    torch.manual_seed(0)
    make, binary, folded = NETWORKS[name]
    network = Frames(make(), folded).eval()
    x = torch.randn(4, 5, 8, 8, 8)
    artefact = tvm_insta.build(network, x[:1], max_batch=4, runtime=runtime)
    assert artefact.manifest.options["checked"] == "passed"
    assert sum(layer.kind == "binary" for layer in artefact.report.layers) == binary
    for count in (1, 3, 4):
        with torch.no_grad():
            expected = network(x[:count]).numpy()
        np.testing.assert_allclose(artefact(x[:count].numpy()), expected, rtol=1e-4, atol=1e-4)
