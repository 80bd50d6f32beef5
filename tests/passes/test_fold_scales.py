"""One factor and one offset behind each layer, and none where two readers want the same value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tvm_insta
from tests.passes.networks import Binary, agree, calls, phases

X = torch.randn(3, 8, 6, 5, generator=torch.Generator().manual_seed(0))


def batch_norm(channels, seed=0):
    """Inference statistics with a zero and a negative gamma among them."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels)
    norm.weight.data = torch.randn(channels, generator=generator)
    norm.weight.data[0] = 0.0
    norm.bias.data = torch.randn(channels, generator=generator)
    norm.running_mean = torch.randn(channels, generator=generator)
    norm.running_var = torch.rand(channels, generator=generator) + 0.5
    return norm.eval()


class Block(nn.Module):
    def __init__(self, conv, residual):
        super().__init__()
        self.conv, self.norm, self.residual = conv, batch_norm(8), residual

    def forward(self, x):
        y = self.norm(self.conv(x) * 0.3) * 2.0 - 0.5
        return y + x if self.residual else y


def sign(x):
    return torch.where(x >= 0, 1.0, -1.0)


@pytest.mark.parametrize("residual", [False, True])
def test_scale_norm_and_offset_behind_a_binary_convolution(residual):
    module = Block(Binary(sign), residual)
    mod, _ = phases(module, X)
    names = calls(mod)
    assert names.count("relax.multiply") == 1
    assert names.count("relax.add") == (2 if residual else 1)
    agree(module, mod, X, 1e-5)  # dot products up to 36, a few float32 roundings


def test_a_float_convolution_takes_the_factor_into_its_weights():
    torch.manual_seed(0)
    module = Block(nn.Conv2d(8, 8, 3, padding=1), False)
    mod, _ = phases(module, X)
    names = calls(mod)
    assert names.count("relax.multiply") == 0
    assert names.count("relax.add") == 1
    agree(module, mod, X, 1e-5)


class MoreDimensions(nn.Module):
    """A factor, or an offset, that gives the result of a layer one more dimension."""

    def __init__(self, layer, shape, add):
        super().__init__()
        self.layer, self.add = layer, add
        self.value = nn.Parameter(torch.full(shape, 1.5))

    def forward(self, x):
        y = self.layer(x)
        y = y + self.value if self.add else y * self.value
        return (y * 2.0 + 1.0).mean(1)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    "layer, shape, x",
    [
        (nn.Linear(8, 4), (1, 1, 1), X[:1, :, 0, 0]),
        (nn.Linear(8, 4), (1, 1, 4), X[:1, :, 0, 0]),
        (Binary(sign), (1, 1, 1, 1, 1), X[:1]),
        (nn.Conv2d(8, 8, 3, padding=1), (1, 1, 1, 1, 1), X[:1]),
    ],
)
def test_a_constant_may_add_dimensions(layer, shape, x, add):
    module = MoreDimensions(layer, shape, add).eval()
    artefact = tvm_insta.build(module, x, "llvm", max_batch=1, check=False)
    with torch.no_grad():
        expected = module(x).numpy()
    got = artefact(x.numpy())
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


class TwoReaders(nn.Module):
    """PReLU's decomposition reads its input twice: it must be computed once."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = Binary(sign), batch_norm(8), nn.PReLU(8)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


def test_the_chain_ends_where_two_readers_want_the_value():
    module = TwoReaders()
    mod, _ = phases(module, X)
    assert calls(mod).count("relax.multiply") == 2  # the scale, and the slope
    agree(module, mod, X, 1e-5)


class Divided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = Binary(sign)

    def forward(self, x):
        return (self.conv(x) / 4.0 - 1.0) / 2.0


def test_division_and_subtraction():
    module = Divided()
    mod, _ = phases(module, X)
    assert "relax.divide" not in calls(mod) and "relax.subtract" not in calls(mod)
    agree(module, mod, X, 1e-6)


def test_batch_norm_in_training_mode_is_no_inference_network():
    class Training(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8, track_running_stats=False)

        def forward(self, x):
            return self.norm(x)

    # Statistics of the batch at hand: not a batch norm with stored ones, but still compilable.
    module = Training().eval()
    mod, _ = phases(module, X)
    agree(module, mod, X, 1e-5)


class Integers(nn.Module):
    """A layer whose weights are integers of 8 bits, times a power of two, and what rounds it."""

    def __init__(self, factor):
        super().__init__()
        numbers = np.random.default_rng(3).integers(-127, 128, (8, 8, 3, 3))
        self.weight = nn.Parameter(torch.tensor(numbers / 16, dtype=torch.float32))
        self.factor = factor

    def forward(self, x):
        y = nn.functional.conv2d(torch.round(x * 8), self.weight, padding=1)
        return torch.round(y * self.factor + 0.5)


@pytest.mark.parametrize("factor, products", [(0.2, 2), (0.25, 1)])
def test_sums_of_integers_stay_exact_in_front_of_a_round(factor, products):
    """A factor in the weights would round each of them, and a sum in the middle of two integers
    would fall to one side or the other; a power of two rounds nothing."""
    module = Integers(factor)
    mod, _ = phases(module, X)
    assert calls(mod).count("relax.multiply") == products
    agree(module, mod, X, 0)
