"""The names of layers are the modules whose weights they use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from tvm_insta.frontend.torch.import_torch import import_torch

X = torch.zeros(1, 8, 6, 6)


def names(module):
    imported = import_torch(module.eval(), [X], max_batch=2, dynamic=True)
    return [layer.name for layer in imported.layers]


class Inner(nn.Module):
    """Weights, and a scale of their own, that code elsewhere computes with."""

    def __init__(self, channels=8):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, channels, 3, 3))
        self.alpha = nn.Parameter(torch.rand(8, 1, 1, 1) + 0.1)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList([Inner(), Inner()])
        self.own = nn.Parameter(torch.randn(4, 8))
        self.sequence = nn.Conv1d(8, 8, 3)

    def forward(self, x):
        for inner in self.body:
            x = F.conv2d(torch.sign(x), inner.weight.sign() * inner.alpha, padding=1)
        x = F.conv1d(torch.sign(x).flatten(2), self.sequence.weight.sign())
        return F.linear(x.mean(2), self.own)


def test_functional_calls_have_the_name_of_the_weights_module():
    assert names(Outer()) == ["body.0", "body.1", "sequence", "own"]


class Shared(nn.Module):
    """One convolution twice, and a weight made of two modules."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.one(self.one(x))
        return F.conv2d(x, self.one.weight + self.two.weight).flatten(1)


def test_what_is_called_twice_gets_a_number_and_what_has_two_owners_its_operator():
    first, again, both = names(Shared())
    assert (first, again) == ("one", "one#2") and both.startswith("conv")


class Constant(nn.Module):
    """A weight without any parameter."""

    def forward(self, x):
        return F.conv2d(x, torch.ones(2, 8, 3, 3) / 9).flatten(1)


def test_a_weight_made_in_forward_has_no_owner():
    (name,) = names(Constant())
    assert name.startswith("conv")


class Sign(nn.Module):
    def forward(self, weight):
        return weight.sign()


class Parametrised(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = parametrize.register_parametrization(nn.Conv2d(8, 8, 3), "weight", Sign())

    def forward(self, x):
        return F.conv2d(self.conv(torch.sign(x)), self.conv.weight).flatten(1)


def test_parametrised_weights_belong_to_their_module():
    assert names(Parametrised()) == ["conv", "conv#2"]


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 4, (1, 3, 3), bias=False)

    def forward(self, x):
        return self.conv(x.reshape(-1, 2, 4, 6, 6)).flatten(1)


def test_convolutions_of_three_dimensions_are_reported():
    (layer,) = import_torch(Volume().eval(), [X], max_batch=2, dynamic=True).layers
    assert (layer.name, layer.op, layer.binary) == ("conv", "conv3d", False)
    assert layer.weight_shape == (4, 1, 3, 3, 2) and layer.output_shape == (4, 4, 4, 4)
    assert layer.macs == 4**4 * 2 * 9
    assert "not packed" in layer.why_float[0].text
