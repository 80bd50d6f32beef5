"""Weights of three or four values that are not evenly spaced are two planes, exactly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import tvm_insta
from tvm_insta.frontend.layers import WhyFloat
from tvm_insta.frontend.torch.levels.weights import Planes, decompose

NUMBERS = st.floats(-4, 4, width=32, allow_subnormal=False)


def sums(planes: Planes) -> torch.Tensor:
    """The weights that planes stand for."""
    shape = (-1, *[1] * (planes.signs[0].ndim - 1))
    total = planes.offset.reshape(shape).expand(planes.signs[0].shape).clone()
    for signs, factor in zip(planes.signs, planes.factors, strict=True):
        total += torch.where(signs, 1.0, -1.0) * factor.reshape(shape)
    return total


@given(values=st.lists(NUMBERS, min_size=1, max_size=3), seed=st.integers(0, 99))
@example(values=[0.0, 1.0, 1e-4], seed=0)  # nearer than what rounding may have moved apart
def test_any_three_values(values, seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, len(values), (5, 8, 3, 3), generator=generator)
    weight = torch.tensor(values)[chosen]
    planes = decompose(weight)
    assert isinstance(planes, Planes)
    size = weight.abs().max().clamp_min(1e-30)
    assert float((sums(planes) - weight).abs().max() / size) < 2e-4


@given(a=st.floats(0.1, 3), b=st.floats(0.1, 3), middle=NUMBERS, seed=st.integers(0, 99))
def test_two_bases(a, b, middle, seed):
    """a * B1 + b * B2, as LQ-Nets and ABC-Net write weights."""
    generator = torch.Generator().manual_seed(seed)
    one, two = (torch.randint(0, 2, (4, 50), generator=generator) * 2.0 - 1 for _ in range(2))
    weight = (a * one + b * two + middle).float()
    planes = decompose(weight)
    assert isinstance(planes, Planes)
    assert float((sums(planes) - weight).abs().max()) < 2e-4 * float(weight.abs().max())


def test_each_channel_has_its_own_values():
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([[-0.7, 0.0, 1.3], [-2.0, 0.0, 0.5], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])
    weight = values.gather(1, torch.randint(0, 3, (4, 60), generator=generator))
    planes = decompose(weight)
    assert isinstance(planes, Planes)
    assert torch.allclose(sums(planes).float(), weight, atol=1e-6)


def test_four_values_without_a_pattern_stay_float():
    weight = torch.tensor([-1.0, -0.3, 0.1, 1.0]).repeat(8, 10)
    reason = decompose(weight)
    assert isinstance(reason, WhyFloat) and "not evenly spaced" in reason.text


class Trained(nn.Module):
    """Trained ternary quantisation: one value for the positive and one for the negative weights."""

    def __init__(self, padding):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 32, 3, 3, generator=generator))
        self.positive, self.negative = (
            nn.Parameter(torch.tensor(1.3)),
            nn.Parameter(torch.tensor(0.7)),
        )
        self.padding = padding

    def forward(self, x):
        w = self.weight
        w = torch.where(w > 0.5, self.positive, torch.where(w < -0.5, -self.negative, 0.0))
        return F.conv2d(torch.sign(x), w, padding=self.padding).flatten(1)


@pytest.mark.parametrize("padding", [0, 1])
def test_trained_ternary_quantisation_is_packed(padding):
    network = Trained(padding).eval()
    x = torch.randn(2, 32, 6, 6, generator=torch.Generator().manual_seed(1))
    artefact = tvm_insta.build(network, x[:1], max_batch=2)
    assert [layer.kind for layer in artefact.manifest.layers] == ["binary"]
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(artefact(x.numpy())), network(x), atol=1e-3)
