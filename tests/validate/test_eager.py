"""What a module may return: tensors in anything that PyTorch itself looks into."""

from __future__ import annotations

import collections
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import tvm_insta
from tvm_insta.errors import ImportModelError

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
Pair = collections.namedtuple("Pair", "one two")


@dataclass
class Registered:
    one: torch.Tensor
    two: torch.Tensor


@dataclass
class Unknown:
    one: torch.Tensor
    two: torch.Tensor


torch.export.register_dataclass(Registered)
MADE = {
    "tuple": lambda a, b: (a, b),
    "nested": lambda a, b: [a, {"b": (b,)}],
    "not only tensors": lambda a, b: {"a": a, "n": 3, "none": None, "b": [b], "text": "logits"},
    "named tuple": Pair,
    "ordered": lambda a, b: collections.OrderedDict(z=a, a=b),
    "registered": Registered,
}


class Network(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x.sign(), (x * 2).sum(1))


@pytest.mark.parametrize("name", MADE)
def test_outputs(name):
    network = Network(MADE[name])
    ours = tvm_insta.build(network, X[:1], max_batch=3)(X.numpy())
    theirs = (X.sign().numpy(), (X * 2).sum(1).numpy())
    for own, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [Unknown, lambda a, b: (a, Unknown(a, b))])
def test_objects_are_refused_by_name(make):
    with pytest.raises(ImportModelError, match=r"returns an object of the class Unknown.*tuples"):
        tvm_insta.build(Network(make), X[:1])


def test_nothing_is_refused():
    with pytest.raises(ImportModelError, match="returns no tensor"):
        tvm_insta.build(Network(lambda a, b: [None, 3]), X[:1])
