"""Kernels that keep to their channels are one for CUDA, and compute what they compute apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.networks import Halving, agree, execute
from tests.passes.test_fuse_consumers import kernels
from tvm_insta import nn as insta
from tvm_insta.frontend import import_torch
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.target import parse

CUDA = Context(parse("cuda -arch=sm_90"))
SEED = 5


def both(module, x, batch=4):
    """The module fused for CUDA and not fused, with the report of the first."""
    imported = import_torch(module.eval(), [x[:1]], max_batch=batch, dynamic=True)
    apart = run_pipeline(imported, replace(CUDA, fuse_consumers=False), last="fuse")
    done = run_pipeline(imported, CUDA, last="fuse", verify_ir=True)
    assert execute(done.mod, x.numpy()).tobytes() == execute(apart.mod, x.numpy()).tobytes()
    return done.mod, apart.mod, done.report


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED))


class Blocks(nn.Module):
    """Two layers of an INSTA-BNN."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(n, c, 3, 3) for c, n in ((5, 37), (37, 8))])
        self.scales = nn.ParameterList([torch.rand(1, n, 1, 1) + 0.5 for n in (37, 8)])
        self.thresholds = nn.ParameterList([torch.randn(1, c, 1, 1) / 4 for c in (5, 37)])
        self.slope = nn.PReLU(37)

    def forward(self, x):
        for weight, scale, threshold in zip(
            self.weights, self.scales, self.thresholds, strict=True
        ):
            moment = (x**3).mean((2, 3), keepdim=True)
            bits = torch.where(x >= threshold + 0.1 * moment, 1.0, -1.0)
            y = F.conv2d(bits, weight.sign(), padding=1) * scale
            shift = (y**3).mean((2, 3), keepdim=True)
            x = self.slope(y - shift) if y.shape[1] == 37 else y
        return x


@pytest.mark.parametrize(("max_batch", "count"), [(1, 1), (4, 3)])
def test_two_kernels_a_layer(max_batch, count):
    torch.manual_seed(SEED)
    fused, apart, report = both(Blocks(), images(count, 5, 6, 5), max_batch)
    convolutions = sum("bitserial" in name for name in kernels(fused))
    assert convolutions == sum("bitserial" in name for name in kernels(apart))
    own = [name for name in kernels(fused) if "threshold_pack" in name or "bitserial" in name]
    assert len(own) == 2 * convolutions and len(kernels(fused)) < len(kernels(apart)) / 2
    # What is compared is an argument or kept: `validate` looks at it.
    assert [pack.source.split(":")[0] for pack in report.packs] == ["argument", "output"]
    assert all(pack.threshold.startswith("output:") for pack in report.packs)


class Around(nn.Module):
    """A tensor that is read together with what a convolution makes of it: no way round it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        first = F.max_pool2d(x, 3, 1, 1)
        outside = F.max_pool2d(self.inner(first), 3, 1, 1)
        inside = F.max_pool2d(first, 3, 1, 1)
        return F.max_pool2d(torch.maximum(outside, inside), 2)


def test_nothing_waits_for_itself():
    torch.manual_seed(SEED)
    module, x = Around(), images(2, 8, 6, 6)
    fused, apart, _ = both(module, x)
    assert len(kernels(fused)) < len(kernels(apart))
    agree(module, fused, x, 1e-5)  # sums of eight products


class Large(nn.Module):
    """An image whose windows are computed by more blocks of threads than its channels make."""

    def forward(self, x):
        return F.max_pool2d(F.avg_pool2d(x, 3, 1, 1), 2)


@pytest.mark.parametrize(("size", "kinds"), [(32, 1), (33, 2)])
def test_windows_of_large_images_stay_apart(size, kinds):
    fused, _, _ = both(Large(), images(1, 8, size, size))
    assert len([name for name in kernels(fused) if "pool" in name]) == kinds


class Channels(nn.Module):
    """Two tensors of other numbers of channels, and a sum over channels."""

    def forward(self, x):
        few = F.max_pool2d(x, 3, 1, 1)
        many = F.max_pool2d(torch.cat([few, few], 1), 3, 1, 1)
        return F.max_pool2d(many.mean(1, keepdim=True), 2)


def test_what_mixes_channels_stays_apart():
    module, x = Channels(), images(2, 6, 6, 6)
    fused, apart, _ = both(module, x)
    assert len(kernels(fused)) == len(kernels(apart))
    agree(module, fused, x, 1e-6)  # one rounding of values below 8


def test_shortcuts_are_computed_where_they_are_added():
    fused, _, _ = both(Halving(32), images(2, 32, 8, 6))
    assert not [name for name in kernels(fused) if name.startswith(("halving", "repeat"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size", "most"),
    [
        ("resnet18", 64, 41),
        ("resnet18", 224, 47),
        ("mobilenet_v1", 64, 59),
        ("mobilenet_v1", 224, 64),
    ],
)
def test_launches_of_an_image(model, size, most):
    """Each kernel of ``main`` is one launch, see tests/cuda_emulator/test_networks.py."""
    network = insta.create(model, "insta").eval()
    imported = import_torch(network, [torch.zeros(1, 3, size, size)], max_batch=1, dynamic=True)
    assert len(kernels(run_pipeline(imported, CUDA, last="fuse").mod)) <= most
