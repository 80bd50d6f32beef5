"""Halved dot products, blocked weights, and what is fused with what."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.networks import Binary, agree, calls, phases, signs
from tvm_insta.passes.pipeline import fuse


def sign(x):
    return torch.where(x >= 0, 1.0, -1.0)


def alphas(mod):
    return [
        int(binding.value.attrs["alpha"])
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if "bitserial" in str(getattr(binding.value, "op", ""))
    ]


@pytest.mark.parametrize(("channels", "alpha"), [(8, 1), (32, 1), (7, 2), (33, 2)])
def test_even_dot_products_are_halved_and_odd_ones_are_not(channels, alpha):
    x = torch.randn(2, channels, 5, 4, generator=torch.Generator().manual_seed(0))
    module = Binary(sign, channels=channels, out=4)
    mod, _ = phases(module, x)
    assert alphas(mod) == [alpha]
    agree(module, mod, x, 0.0)  # multiples of 0.5, exact


class Twice(nn.Module):
    """A dot product that is read as it is, and with a scale."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(signs((4, 8, 3, 3), 5))

    def forward(self, x):
        y = F.conv2d(sign(x), self.weight, padding=1)
        return y * 3.0 + torch.relu(y)


def test_halved_dot_products_are_doubled_for_every_reader():
    x = torch.randn(2, 8, 5, 4, generator=torch.Generator().manual_seed(0))
    module = Twice()
    mod, _ = phases(module, x)
    assert alphas(mod) == [1]
    agree(module, mod, x, 0.0)


@pytest.mark.parametrize(("out", "lanes"), [(16, 8), (12, 4), (10, 2), (7, 1)])
def test_weights_are_blocked_by_what_divides_the_channels(out, lanes):
    x = torch.randn(1, 8, 5, 4)
    mod, _ = phases(Binary(sign, out=out), x, lanes=8)
    shapes = [
        tuple(int(dim) for dim in binding.value.args[1].ty.shape.values)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if "bitserial" in str(getattr(binding.value, "op", ""))
    ]
    assert shapes == [(out // lanes, 3, 3, 1, lanes)]


class Doubling(nn.Module):
    """Two branches side by side, then a PReLU that reads the concatenation twice."""

    def __init__(self):
        super().__init__()
        self.act = nn.PReLU(16)

    def forward(self, x):
        return self.act(torch.cat([x * 2, x + 1], 1))


def test_concatenations_are_not_fused():
    x = torch.randn(1, 8, 5, 4)
    mod, _ = phases(Doubling(), x)
    assert calls(mod).count("relax.concat") == 1
    names = [variable.name_hint for variable in fuse(mod).get_global_vars()]
    assert "concatenate" in names
    assert not any("concatenate" in name and name.startswith("fused") for name in names)
