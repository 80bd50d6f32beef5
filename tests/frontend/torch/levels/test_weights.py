"""Weights of few values become planes of +-1 that give the very same weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tvm_insta.frontend.layers import Reason, WhyFloat
from tvm_insta.frontend.torch.levels.weights import Planes, decompose

SHAPE = (4, 8, 3, 3)


def rebuilt(planes: Planes) -> torch.Tensor:
    """The weight that planes stand for, in float64."""
    shape = (-1, *[1] * (planes.signs[0].ndim - 1))
    total = planes.offset.reshape(shape).expand(planes.signs[0].shape).clone()
    for signs, factor in zip(planes.signs, planes.factors, strict=True):
        total = total + torch.where(signs, 1.0, -1.0).double() * factor.reshape(shape)
    return total


def agrees(weight: torch.Tensor, bits: int, planes: int | None = None) -> Planes:
    found = decompose(weight)
    assert isinstance(found, Planes), found
    assert found.bits == bits
    assert len(found.signs) == (planes or bits)
    torch.testing.assert_close(rebuilt(found).float(), weight, rtol=1e-6, atol=1e-7)
    return found


def codes(seed: int, levels: int, shape=SHAPE) -> torch.Tensor:
    """Random codes 0 .. levels - 1, each of which occurs in every output channel."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randint(0, levels, shape, generator=generator).float()
    made.reshape(shape[0], -1)[:, :levels] = torch.arange(float(levels))
    return made


SEEDS = st.integers(0, 2**31)
SCALES = st.sampled_from([1.0, 0.5, 0.1, 3e-5, 700.0])


@given(SEEDS, SCALES, st.integers(1, 4), st.floats(-3, 3))
def test_even_grids_of_a_power_of_two(seed, scale, bits, lowest):
    """Anywhere on the axis: {0, 1}, {-2, -1, 0, 1}, odd numbers, and grids that have no 0."""
    low = round(lowest * 2) / 2
    weight = (codes(seed, 2**bits) + low) * scale
    agrees(weight, bits)


@given(SEEDS, st.integers(1, 4))
def test_a_scale_for_each_channel(seed, bits):
    scales = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(seed)) + 0.05
    agrees((codes(seed, 2**bits) - (2**bits - 1) / 2) * scales, bits)


@given(SEEDS, SCALES)
def test_ternary_weights_are_two_planes(seed, scale):
    found = agrees((codes(seed, 3) - 1) * scale, bits=2, planes=2)
    assert not found.offset.any()
    assert torch.equal(found.factors[0], found.factors[1])


@given(SEEDS, st.integers(0, 3))
def test_a_ternary_channel_may_lack_a_value(seed, missing):
    """Its own grid would be another one; that of all channels holds."""
    weight = codes(seed, 3) - 1
    row = weight[missing]
    row[row == -1] = 0.0
    agrees(weight, bits=2)
    row[:] = 0.0
    agrees(weight, bits=2)


@given(SEEDS, SCALES)
def test_one_bit_and_one_magnitude_is_one_plane(seed, scale):
    scales = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(seed)) + 0.1
    found = agrees((codes(seed, 2) * 2 - 1) * scales * scale, bits=1)
    assert found.single


def test_a_channel_of_zeros_has_the_factor_0():
    weight = codes(0, 2) * 2 - 1
    weight[2] = 0.0
    found = agrees(weight, bits=1)
    assert found.single and found.factors[0].tolist() == [1.0, 1.0, 0.0, 1.0]


@given(SEEDS, st.sampled_from([1.0, 4.0, 16.0, 64.0]))
def test_straight_through_rounding_is_not_taken_for_real_weights(seed, outlier):
    """``(hard - latent) + latent`` is rounded at the size of the latent weight."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(SHAPE, generator=generator)
    latent[0, 0, 0, 0] = outlier
    hard = torch.sign(latent)
    weight = (hard - latent) + latent
    found = decompose(weight)
    assert isinstance(found, Planes) and found.single
    torch.testing.assert_close(rebuilt(found).float(), hard, rtol=1e-5, atol=0)


REFUSED = {
    "normal": (lambda: torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)), "real-valu"),
    "a little spread": (
        lambda: (codes(0, 2) * 2 - 1) * torch.linspace(1, 1.01, 72).reshape(1, 8, 3, 3),
        "real-valued",
    ),
    "uneven": (lambda: torch.tensor([0.0, 1.0, 2.5, 5.3])[codes(0, 4).long()], "not evenly spaced"),
    "17 values": (lambda: codes(0, 17, (2, 300)), "real-valued|evenly spaced values"),
    "NaN": (lambda: torch.full(SHAPE, torch.nan), "NaN"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_weights_are_refused_with_a_reason(name):
    make, text = REFUSED[name]
    found = decompose(make())
    assert isinstance(found, WhyFloat)
    assert found.code in (Reason.REAL_WEIGHTS, Reason.MANY_WEIGHT_LEVELS)
    assert any(part in found.text for part in text.split("|"))


def test_a_product_s_weight():
    agrees((codes(3, 4, (5, 40)) * 2 - 3) * 0.25, bits=2)


@given(SEEDS, st.integers(2, 4), st.integers(1, 64))
def test_grids_of_many_channels(seed, bits, channels):
    """DoReFa's: the smallest difference of two weights, of all channels, is the most rounded."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.tanh(torch.randn(channels, 16, 3, 3, generator=generator) * 0.3)
    largest, steps = latent.abs().max(), 2**bits - 1
    weight = largest * (2 * (torch.round((latent / 2 / largest + 0.5) * steps) / steps) - 1)
    assert isinstance(decompose(weight), Planes)
