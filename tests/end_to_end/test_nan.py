"""NaN and infinity: the bits and the NaN pattern of PyTorch, in both forms.

A comparison with NaN is false in either order of its operands, so `x >= t` is not `not (t > x)`;
`sign(NaN)` is 0; an activation and a pool pass a NaN on. A quantiser that does so, or gives NaN
a value of its own, has no code for it: that alone is not in this table, and the report says it.
"""

from __future__ import annotations

import itertools
import operator

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tvm_insta

SEED = 77
CHANNELS, SIDE = 8, 6
COMPARISONS = (operator.ge, operator.gt, operator.le, operator.lt)
NAN, INF = float("nan"), float("inf")


class Compared(nn.Module):
    """Every comparison in both orders, packed and multiplied with +-1 weights."""

    negated = False

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        self.forms = list(itertools.product(COMPARISONS, (False, True)))
        shape = (len(self.forms), 4, CHANNELS, 3, 3)
        self.weights = nn.Parameter(torch.randn(shape, generator=generator).sign())
        thresholds = torch.randint(-2, 3, (1, CHANNELS, 1, 1), generator=generator) / 2
        self.thresholds = nn.Parameter(thresholds)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = []
        for (compare, swapped), weight in zip(self.forms, self.weights, strict=True):
            pair = (self.thresholds, x) if swapped else (x, self.thresholds)
            truth = compare(*pair)
            truth = ~truth if self.negated else truth
            levels = torch.where(truth, 1.0, -1.0)
            found.append(F.conv2d(levels, weight, padding=1))
        return torch.cat(found, 1)


class Negated(Compared):
    """The same, each as `not (...)`: NaN sets a bit."""

    negated = True


class Swapped(Compared):
    """The same, with the two values exchanged instead."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = []
        for (compare, swapped), weight in zip(self.forms, self.weights, strict=True):
            pair = (self.thresholds, x) if swapped else (x, self.thresholds)
            found.append(F.conv2d(torch.where(compare(*pair), -1.0, 1.0), weight, padding=1))
        return torch.cat(found, 1)


ACTIVATIONS = (
    F.relu,
    F.relu6,
    F.hardtanh,
    lambda x: F.hardtanh(x, -0.5, 2.0),
    lambda x: x.clamp(-1, 1),
    lambda x: x.clamp(min=0.25),
    lambda x: x.clamp(max=0.25),
    lambda x: F.leaky_relu(x, 0.25),
    lambda x: F.threshold(x, 0.5, -2.0),
    lambda x: torch.maximum(x, torch.full_like(x, 0.5)),
    lambda x: torch.minimum(torch.full_like(x, 0.5), x),
    lambda x: torch.maximum(x, x.flip(1)),
    lambda x: torch.minimum(x.flip(2), x),
    lambda x: F.prelu(x, torch.tensor([0.25])),
    lambda x: F.prelu(x, torch.arange(CHANNELS) / 4),
    lambda x: x.clamp(-0.5, 0.5) + F.relu(-x),
    torch.abs,
    lambda x: torch.where(x > 0, x, -x),
    lambda x: torch.where(torch.isnan(x), torch.zeros_like(x), x),
)


class Activated(nn.Module):
    """Every activation that is exact: selects, or multiplies by a power of two."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([activation(x) for activation in ACTIVATIONS], 1)


POOLS = (
    lambda x: F.max_pool2d(x, 2),
    lambda x: F.max_pool2d(x, 3, 2, 1),
    lambda x: F.adaptive_max_pool2d(x, 3),
    lambda x: F.max_pool2d(F.relu(x), 2),
    lambda x: F.avg_pool2d(x, 2),
    lambda x: -F.max_pool2d(-x, 2),
    lambda x: F.max_pool1d(x.flatten(2), 4).unflatten(2, (3, 3)),
    lambda x: x.amax(3, keepdim=True)[:, :, :3].expand(-1, -1, -1, 3),
    lambda x: x.amin(2, keepdim=True)[..., :3].expand(-1, -1, 3, -1),
)


class Pooled(nn.Module):
    """Pools of windows that NaN is in, at the border of, or not in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([pool(x) for pool in POOLS], 1)


def images() -> torch.Tensor:
    """One image for each set of places: none, corners, borders, a channel, all; quarters else."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (10, CHANNELS, SIDE, SIDE)
    x = torch.randint(-12, 13, shape, generator=generator) / 4  # sums of quarters are exact
    x[1, 0, 0, 0] = x[2, -1, -1, -1] = x[3, 3, 2, 3] = NAN
    x[4, 5], x[5], x[6, :, 0] = NAN, NAN, NAN
    x[7, :, 1, 1], x[8, 2, 3] = INF, -INF
    x[9][torch.rand(shape[1:], generator=generator) < 0.3] = NAN
    return x


QUANTISERS = (
    torch.sign,
    torch.sgn,
    lambda x: torch.sign(-x),
    lambda x: torch.sign(F.relu(x)),
    lambda x: torch.sign(F.hardtanh(x)),
    lambda x: (x < 0).int() * -2.0 + 1.0,
    lambda x: (x > 0.5).float() - (x < -0.5).float(),
    lambda x: torch.where(x < -0.5, -1.0, torch.where(x <= 0.5, 0.0, 1.0)),
    lambda x: torch.where(x >= 2, 1.0, torch.where(x > -1, 0.0, -1.0)),
    lambda x: torch.where(~(x < -1), 1.0, 0.0) + torch.where(x >= 1, 1.0, 0.0),
    lambda x: torch.where(torch.round(x.clamp(0, 1)) < 0.5, 1.0, -1.0),
    lambda x: torch.where(torch.isnan(x), -1.0, torch.where(x < 0, -1.0, 1.0)),
    lambda x: torch.where(x <= x.mean((2, 3), keepdim=True), -1.0, 1.0),
    lambda x: torch.heaviside(x, torch.ones(())),
    lambda x: torch.where(torch.maximum(x, x.flip(1)) < 0, 0.0, 1.0),
)


class Quantised(nn.Module):
    """Quantisers that give NaN a level: the lowest, the highest, one between."""

    quantisers = QUANTISERS
    padding = 1

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        shape = (len(self.quantisers), 4, CHANNELS, 3, 3)
        self.weights = nn.Parameter(torch.randn(shape, generator=generator).sign())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = zip(self.quantisers, self.weights, strict=True)
        return torch.cat([F.conv2d(q(x), w, padding=self.padding) for q, w in pairs], 1)


class PooledLevels(Quantised):
    """Pools of levels: the level of NaN is one among others."""

    quantisers = tuple(
        (lambda x, pool=pool, levels=levels: pool(levels(x)))
        for pool in (
            lambda q: F.max_pool2d(q, 2),
            lambda q: -F.max_pool2d(-q, 2),
            lambda q: F.avg_pool2d(q, 2),
        )
        for levels in (
            torch.sign,
            lambda x: torch.where(x >= 0, 1.0, -1.0),
            lambda x: torch.where(x < 0, -1.0, 1.0),
            lambda x: torch.where(x < 0, 1.0, -1.0),
            lambda x: torch.where(x < -1, -1.0, torch.where(x <= 1, 0.0, 1.0)),
        )
    )


@pytest.mark.parametrize("form", ["vm", "c"])
@pytest.mark.parametrize(
    "network",
    [
        Compared,
        Negated,
        Swapped,
        Quantised,
        PooledLevels,
        Activated,
        Pooled,
    ],
)
def test_bits_and_nan_pattern_of_pytorch(network, form):
    module, x = network().eval(), images()
    with torch.no_grad():
        expected = module(x).numpy()
    artefact = tvm_insta.build(module, x[:1], runtime=form, target="native")
    got = artefact(x)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    for number in range(len(x)):
        ours, theirs = got[number], expected[number]
        places = np.argwhere(np.isnan(ours) != np.isnan(theirs))
        assert not len(places), f"seed {SEED}, image {number}: NaN at {places[:3].tolist()}"
        places = np.argwhere((ours != theirs) & ~np.isnan(theirs))
        assert not len(places), f"seed {SEED}, image {number}: {places[:3].tolist()}"
    if issubclass(network, (Compared, Quantised)):
        reasons = [layer.reason for layer in artefact.manifest.layers if layer.kind != "binary"]
        assert not reasons, reasons


class PassedOn(Quantised):
    """Quantisers that give NaN no level of theirs, and one behind such a one that does."""

    quantisers = (
        lambda x: torch.round(x.clamp(-1, 2)),
        lambda x: torch.zeros_like(x).masked_fill(x > 0, 1.0).masked_fill(x <= 0, -1.0),
        lambda x: torch.sign(x.clamp(-1, 2)),
    )


def test_nan_without_a_level_is_in_the_report():
    """No code is NaN: the layer says what it is taken for."""
    module, x = PassedOn().eval(), images()
    with torch.no_grad():
        expected = module(x).numpy()
    artefact = tvm_insta.build(module, x[:1], target="native")
    *none, last = artefact.manifest.layers
    assert [layer.bits for layer in (*none, last)] == [2, 1, 2]
    note = (
        "NaN counts as the lowest level of its input; PyTorch's quantiser gives it none of them",
    )
    assert [layer.notes for layer in none] == [note, note] and not last.notes
    got = artefact(x)
    lowest = module(torch.where(torch.isnan(x), -INF, x)).detach().numpy()
    assert np.array_equal(got[:, :8], lowest[:, :8])
    assert np.array_equal(got[:, 8:], expected[:, 8:])
