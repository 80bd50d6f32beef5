"""Which parallel convolutions become one, that nothing is computed otherwise, and the report."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes import networks
from tests.passes.networks import agree, calls, execute, phases, signs
from tvm_insta.passes.kernels import kernels_of_layers
from tvm_insta.passes.merge_parallel import NOTE, merge_parallel
from tvm_insta.passes.pipeline import fuse

TOLERANCE = 4e-6
"""Values are below 8, and a handful of float32 operations round them by 2**-22 each at most."""


def sign(x):
    return torch.where(x >= 0, 1.0, -1.0)


class Branches(nn.Module):
    """Binary convolutions of the same bits, each with its factors, offsets and shortcut.

    ``shortcut(branch, x)`` is added; ``conv`` gives further arguments per branch.
    """

    def __init__(self, channels, outs, kernel=1, shortcut=None, conv=None, groups=1, act=None):
        super().__init__()
        generator = torch.Generator().manual_seed(len(outs))
        self.conv = conv or [{"padding": kernel // 2}] * len(outs)
        self.groups = groups
        self.shortcut = shortcut
        self.weights = nn.ParameterList(
            signs((out, channels // groups, kernel, kernel), at) for at, out in enumerate(outs)
        )
        size = channels * kernel * kernel
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for out in outs)
        for norm in self.norms:
            norm.weight.data = torch.randn(norm.num_features, generator=generator)
            norm.bias.data = torch.randn(norm.num_features, generator=generator)
            norm.running_var.fill_(float(size))
        self.act = nn.PReLU(act or sum(outs))
        self.act.weight.data = torch.rand(self.act.weight.shape, generator=generator)

    def bits(self, branch, x):
        return sign(x)

    def branch(self, at, x):
        bits = self.bits(at, x)
        y = self.norms[at](F.conv2d(bits, self.weights[at], groups=self.groups, **self.conv[at]))
        return y if self.shortcut is None else y + self.shortcut(at, x)

    def join(self, branches):
        return torch.cat(branches, 1)

    def forward(self, x):
        return self.act(self.join([self.branch(at, x) for at in range(len(self.weights))]))


def image(channels, batch=2):
    return torch.randn(batch, channels, 6, 5, generator=torch.Generator().manual_seed(channels))


FITTING = {
    "doubling": (32, dict(outs=(32, 32), shortcut=lambda _, x: x)),
    "three of 24": (24, dict(outs=(24, 24, 24), kernel=3, shortcut=lambda _, x: x)),
    "seven channels": (7, dict(outs=(7, 7), shortcut=lambda _, x: x)),
    "one vector an image": (
        8,
        dict(outs=(8, 8), shortcut=lambda _, x: x.mean((2, 3), keepdim=True)),
    ),
    "one channel for all": (8, dict(outs=(8, 8), shortcut=lambda _, x: x[:, :1])),
    "stride 2, other widths": (
        16,
        dict(outs=(8, 20, 4), kernel=3, conv=[{"stride": 2, "padding": 1}] * 3),
    ),
    "pooled": (
        16,
        dict(
            outs=(16, 16),
            kernel=3,
            conv=[{"stride": 2, "padding": (1, 0)}] * 2,
            shortcut=lambda _, x: F.avg_pool2d(x[:, :, :, :4], 2),
        ),
    ),
}


@pytest.mark.parametrize("case", FITTING)
def test_parallel_convolutions_are_one(case, monkeypatch):
    channels, options = FITTING[case]
    module, x = Branches(channels, **options).eval(), image(channels)
    mod, report = phases(module, x)
    assert calls(mod).count("relax.insta.bitserial_conv2d_blocked") == 1
    assert calls(mod).count("relax.concat") == 0
    agree(module, mod, x, TOLERANCE)

    outs = options["outs"]
    assert [layer.weight_shape[0] for layer in report.layers] == list(outs)
    names = tuple(layer.name for layer in report.layers)
    assert len(set(names)) == len(outs)
    assert [layer.together for layer in report.layers] == [names] * len(outs)
    (together,) = {kernels for _, kernels in kernels_of_layers(fuse(mod), report)}
    assert len(together) == 1
    assert all(NOTE in layer.notes for layer in report.layers)

    networks.without(monkeypatch, merge_parallel)
    apart, _ = phases(module, x)
    assert calls(apart).count("relax.insta.bitserial_conv2d_blocked") == len(outs)
    expected = execute(fuse(apart), x.numpy())
    assert execute(fuse(mod, consumers=True), x.numpy()).tobytes() == expected.tobytes()


class ReadTwice(Branches):
    """The first branch has a second reader."""

    def forward(self, x):
        first, second = (self.branch(at, x) for at in range(2))
        return torch.cat([first, second], 1) + torch.relu(first).repeat(1, 2, 1, 1)


class ReadWithin(Branches):
    """The sums of the first branch have a second reader."""

    def forward(self, x):
        sums = F.conv2d(sign(x), self.weights[0])
        first, second = self.norms[0](sums), self.branch(1, x)
        return torch.cat([first, second], 1) * sums.mean(1, keepdim=True)


class OtherOperators(Branches):
    """One branch more has a ReLU."""

    def join(self, branches):
        return torch.cat([branches[0], torch.relu(branches[1])], 1)


class OtherOperator(Branches):
    """As many operators, but not the same."""

    def join(self, branches):
        return torch.cat([torch.relu(branches[0]), -branches[1]], 1)


class OtherBits(Branches):
    """Each branch has thresholds of its own."""

    def bits(self, branch, x):
        return sign(x - 0.25 * branch)


class Below(Branches):
    """The results lie one above the other, not channel by channel."""

    def __init__(self, channels, outs):
        super().__init__(channels, outs)
        self.act = nn.PReLU()

    def join(self, branches):
        return torch.cat(branches, 2)


class Itself(Branches):
    """One branch twice."""

    def join(self, branches):
        return torch.cat([branches[0], branches[0]], 1)


class AndTheInput(Branches):
    """The input is part of the result."""

    def forward(self, x):
        return torch.cat([self.branch(0, x), self.branch(1, x), x], 1)


STAYING = {
    "read twice": (ReadTwice, dict(outs=(8, 8)), 2),
    "read within": (ReadWithin, dict(outs=(8, 8)), 2),
    "other operators": (OtherOperators, dict(outs=(8, 8)), 2),
    "another operator": (OtherOperator, dict(outs=(8, 8)), 2),
    "a shortcut as wide as one of them": (
        Branches,
        dict(outs=(8, 1), shortcut=lambda at, x: x, act=16),
        2,
    ),
    "other bits": (OtherBits, dict(outs=(8, 8)), 2),
    "one above the other": (Below, dict(outs=(8, 8)), 2),
    "one branch twice": (Itself, dict(outs=(8, 8)), 1),
    "the input beside them": (AndTheInput, dict(outs=(8, 8)), 2),
    "shortcuts of their own": (
        Branches,
        dict(outs=(8, 8), shortcut=lambda at, x: torch.relu(x) if at else torch.tanh(x)),
        2,
    ),
    "groups": (Branches, dict(outs=(8, 8), groups=2), 2),
    "other kernels": (
        Branches,
        dict(outs=(8, 8), kernel=3, conv=[{"padding": d, "dilation": d} for d in (1, 2)]),
        2,
    ),
}


@pytest.mark.parametrize("case", STAYING)
def test_what_does_not_fit_stays(case):
    kind, options, count = STAYING[case]
    module, x = kind(8, **options).eval(), image(8)
    mod, report = phases(module, x)
    assert calls(mod).count("relax.insta.bitserial_conv2d_blocked") == count
    assert calls(mod).count("relax.concat") == 1
    assert not any(layer.together or layer.notes for layer in report.layers)
    agree(module, mod, x, TOLERANCE)


class Crossing(nn.Module):
    """Another convolution lies between two that become one, and reads the same bits."""

    def __init__(self):
        super().__init__()
        self.first, self.between, self.second = (
            nn.Parameter(signs((out, 8, 1, 1), out)) for out in (4, 6, 10)
        )

    def forward(self, x):
        bits = sign(x)
        first, between, second = (
            F.conv2d(bits, weight) * 0.5 for weight in (self.first, self.between, self.second)
        )
        return torch.cat([first, second], 1) + between.sum(1, keepdim=True)


def test_the_report_says_who_is_computed_together():
    module, x = Crossing(), image(8)
    mod, report = phases(module, x)
    assert [layer.weight_shape[0] for layer in report.layers] == [4, 6, 10]  # PyTorch's order
    first, between, second = report.layers
    one, other, third = (kernels for _, kernels in kernels_of_layers(fuse(mod), report))
    assert one == third != other and len(one) == len(other) == 1
    assert first.together == second.together == (first.name, second.name)
    assert between.together == ()
    agree(module, mod, x, TOLERANCE)
