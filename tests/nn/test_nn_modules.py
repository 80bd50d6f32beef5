"""The statistics, the thresholds and the PReLUs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tvm_insta import nn
from tvm_insta.errors import ModelError


def _activation(generator: torch.Generator) -> torch.Tensor:
    # Skewed, so that no two statistics coincide.
    x = torch.randn(2, 5, 6, 7, generator=generator)
    return torch.exp(0.5 * x) - 0.8


def _randomise(module: torch.nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)


def test_statistics_against_double_precision(generator: torch.Generator) -> None:
    x = _activation(generator)
    wide = x.double().flatten(2)
    mean = wide.mean(dim=2, keepdim=True)
    expected = {
        "mean": wide.mean(dim=2),
        "variance": ((wide - mean) ** 2).mean(dim=2),
        "third_central": ((wide - mean) ** 3).mean(dim=2),
        "third_moment": (wide**3).mean(dim=2),
        "third_over_second": (wide**3).mean(dim=2) / ((wide**2).mean(dim=2) + 1e-5),
    }
    assert set(expected) == set(nn.STATISTICS)
    for name, value in expected.items():
        # 42 float32 addends of size up to about 20.
        torch.testing.assert_close(nn.measure(x, name), value.float(), rtol=1e-5, atol=1e-5)
    mu, sigma2 = expected["mean"], expected["variance"]
    combined = mu**3 + 3 * mu * sigma2 + expected["third_central"]
    torch.testing.assert_close(combined, expected["third_moment"])


def test_unknown_statistic_names_the_near_one() -> None:
    with pytest.raises(ModelError, match="did you mean 'third_moment'"):
        nn.InstaThreshold(4, statistic="third_momnt")
    with pytest.raises(ModelError, match="'variance'"):
        nn.InstaPReLU(4, statistic="kurtosis")


@pytest.mark.parametrize("statistic", nn.STATISTICS)
@pytest.mark.parametrize("training", [True, False])
def test_insta_threshold_compares_with_its_formula(
    statistic: str, training: bool, generator: torch.Generator
) -> None:
    module = nn.InstaThreshold(5, statistic=statistic).train(training)
    _randomise(module, generator)
    x = _activation(generator)
    m = nn.measure(x, statistic)
    threshold = (module.a * m + module.b)[:, :, None, None]
    assert torch.equal(module.thresholds(x), threshold)
    assert torch.equal(module(x), torch.where(x >= threshold, 1.0, -1.0))


def test_insta_threshold_plus_formula(generator: torch.Generator) -> None:
    module = nn.InstaThresholdPlus(5, reduction=2).eval()
    _randomise(module, generator)
    assert module.fc1.weight.shape == (2, 5)
    x = _activation(generator)
    m = (x.double() ** 3).mean(dim=(2, 3))
    twin = nn.InstaThresholdPlus(5, reduction=2).double()
    twin.load_state_dict(module.state_dict())
    hidden = (m @ twin.fc1.weight.T + twin.fc1.bias).clamp(min=0)
    expected = twin.a * m + twin.b + torch.tanh(hidden @ twin.fc2.weight.T + twin.fc2.bias)
    # Two short dot products in float32 behind the statistic.
    torch.testing.assert_close(
        module.thresholds(x)[:, :, 0, 0], expected.float(), rtol=1e-4, atol=1e-5
    )


def test_threshold_plus_reduction() -> None:
    assert nn.InstaThresholdPlus(64).fc1.out_features == 4
    assert nn.InstaThresholdPlus(8).fc1.out_features == 1


def test_a_new_insta_module_is_the_baseline(generator: torch.Generator) -> None:
    x = _activation(generator)
    bits = nn.RSign(5)(x)
    assert torch.equal(nn.InstaThreshold(5)(x), bits)
    assert torch.equal(nn.InstaThresholdPlus(5)(x), bits)
    assert torch.equal(nn.InstaPReLU(5)(x), nn.RPReLU(5)(x))
    assert torch.equal(nn.RPReLU(5)(x), F.prelu(x, torch.tensor(0.25)))


def test_gradient_goes_through_the_statistic(generator: torch.Generator) -> None:
    x = _activation(generator).requires_grad_()
    module = nn.InstaThreshold(5)
    _randomise(module, generator)
    weights = torch.randn(x.shape, generator=generator)
    (module(x) * weights).sum().backward()

    # By hand: g = w * slope(x - TH); dL/dx = g - (sum g) * a * 3 x^2 / (H W).
    with torch.no_grad():
        u = x - module.thresholds(x)
        g = weights * torch.clamp(2 - 2 * u.abs(), min=0)
        total = g.sum(dim=(2, 3), keepdim=True)
        through = -total * module.a.view(1, -1, 1, 1) * 3 * x * x / 42
    assert x.grad is not None and module.a.grad is not None
    assert float(through.abs().max()) > 0.01
    torch.testing.assert_close(x.grad, g + through, rtol=1e-4, atol=1e-5)
    m = nn.measure(x.detach())
    torch.testing.assert_close(
        module.a.grad, -(total[:, :, 0, 0] * m).sum(dim=0), rtol=1e-4, atol=1e-4
    )


def test_insta_prelu_formula_and_gradient(generator: torch.Generator) -> None:
    module = nn.InstaPReLU(5).double()
    _randomise(module, generator)
    x = _activation(generator).double().requires_grad_()
    shift = module.g0.view(-1, 1, 1) + (module.g1 * (x**3).mean(dim=(2, 3)))[:, :, None, None]
    u = x - shift
    expected = torch.where(u >= 0, u, module.slope.view(-1, 1, 1) * u) + module.z.view(-1, 1, 1)
    torch.testing.assert_close(module(x), expected)
    # Smooth but for the kink, which no element is within 1e-6 of.
    assert float(u.detach().abs().min()) > 1e-5
    assert torch.autograd.gradcheck(module, (x,), eps=1e-6)


@pytest.mark.parametrize("statistic", nn.STATISTICS)
@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    size=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_written_gradients_are_those_of_autograd(
    statistic: str, shape: tuple[int, int, int, int], size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = size * torch.randn(shape, generator=generator, dtype=torch.float64)
    weights = torch.randn(shape[:2], generator=generator, dtype=torch.float64)
    found = []
    for training in (True, False):
        own = x.clone().requires_grad_()
        m = nn.measure(own, statistic, training=training)
        (m * weights).sum().backward()
        found.append((m.detach(), own.grad))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


@pytest.mark.parametrize("shape", [(3, 5, 4, 2), (3, 5)])
def test_the_gradients_of_a_prelu_are_those_of_autograd(
    shape: tuple[int, ...], generator: torch.Generator
) -> None:
    module = nn.RPReLU(5).double()
    _randomise(module, generator)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = []
    for training in (True, False):
        own = x.clone().requires_grad_()
        module.train(training).zero_grad()
        y = module(own)
        (y * weights).sum().backward()
        found.append([y.detach(), own.grad, *(p.grad for p in module.parameters())])
    assert torch.equal(found[0][0], found[1][0])
    for mine, autograds in zip(*found, strict=True):
        torch.testing.assert_close(mine, autograds)


def test_a_given_statistic_replaces_the_own_one(generator: torch.Generator) -> None:
    x = _activation(generator)
    threshold, prelu = nn.InstaThreshold(5), nn.InstaPReLU(5)
    _randomise(threshold, generator)
    _randomise(prelu, generator)
    m = torch.randn(2, 5, generator=generator)
    assert torch.equal(
        threshold.thresholds(x, m), (threshold.a * m + threshold.b)[:, :, None, None]
    )
    assert torch.equal(prelu.shift(x, m), (prelu.g1 * m + prelu.g0)[:, :, None, None])
    assert torch.equal(prelu(x, prelu.measure(x)), prelu(x))
    assert nn.RPReLU(5).measure(x) is None


def test_constant_modules_take_vectors(generator: torch.Generator) -> None:
    x = torch.randn(3, 5, generator=generator)
    sign, prelu = nn.RSign(5), nn.RPReLU(5)
    _randomise(sign, generator)
    _randomise(prelu, generator)
    assert torch.equal(sign(x), torch.where(x >= sign.b, 1.0, -1.0))
    image = prelu(x[:, :, None, None])[:, :, 0, 0]
    assert torch.equal(prelu(x), image)
