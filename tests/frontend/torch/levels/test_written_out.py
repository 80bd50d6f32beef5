"""Layers written as a broadcast and a sum, a count of equal bits, einsum or products of vectors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tvm_insta
from tests.frontend.torch.graphs import Network, exported
from tvm_insta.frontend.torch.levels.layers import rewrite_layers

SEED = 17
GENERATOR = torch.Generator().manual_seed(SEED)
INPUTS, OUTPUTS, TOKENS = 40, 6, 3
WEIGHT = torch.randn(OUTPUTS, INPUTS, generator=GENERATOR).sign()
X = torch.randint(-4, 5, (3, TOKENS, INPUTS), generator=GENERATOR) / 2
TRUE = WEIGHT > 0


def one(x):
    return torch.where(x >= 0, 1.0, -1.0)


def three(x):
    return torch.round(x.clamp(-1, 1)) * 0.5


def image(x):
    """``[N, T, I] -> [N, 20, 3, 2]``."""
    return x.reshape(-1, 20, TOKENS, 2)


SPELLINGS = {
    # of tokens [N, T, I]: bits of the activations, bits of the weights
    "broadcast": (lambda x: (one(x)[:, :, None] * WEIGHT).sum(-1), (1, 1)),
    "kept": (lambda x: (one(x)[:, :, None] * WEIGHT[None]).sum(-1, keepdim=True), (1, 1)),
    "in front": (lambda x: (one(x)[..., None] * WEIGHT.T).sum(2), (1, 1)),
    "outputs first": (
        lambda x: (WEIGHT[:, None, None] * one(x)[None]).sum(3).permute(1, 2, 0),
        (1, 1),
    ),
    "mean": (lambda x: (WEIGHT[:, :32] * one(x[:, :, None, :32])).mean(-1), (1, 1)),
    "expanded": (
        lambda x: (one(x)[:, :, None].expand(-1, -1, OUTPUTS, -1) * WEIGHT).sum(-1),
        (1, 1),
    ),
    "one output": (lambda x: (one(x) * WEIGHT[0]).sum(-1), (1, 1)),
    "three levels": (lambda x: (three(x)[:, :, None] * WEIGHT).sum(-1), (2, 1)),
    "half weights": (lambda x: (three(x)[:, :, None] * (WEIGHT * 0.5)).sum(-1), (2, 1)),
    "ternary weights": (
        lambda x: (one(x)[:, :, None] * torch.round(WEIGHT + WEIGHT.roll(1, 0))).sum(-1),
        (1, 2),
    ),
    "equal bits": (lambda x: ((x >= 0)[:, :, None] == TRUE).sum(-1).float() * 2 - INPUTS, (1, 1)),
    "other bits": (lambda x: INPUTS - 2 * ((x >= 0)[:, :, None] ^ TRUE).float().sum(-1), (1, 1)),
    "both bits": (lambda x: ((x > 0.5)[:, :, None] & TRUE).sum(-1).float(), (1, 1)),
    "distance": (lambda x: -(one(x)[:, :, None] - WEIGHT).abs().sum(-1), (1, 1)),
    "over an image": (
        lambda x: (one(image(x))[:, None] * WEIGHT.repeat(1, 3).view(-1, 20, TOKENS, 2)).sum(
            (2, 3, 4)
        ),
        (1, 1),
    ),
    "every pixel": (lambda x: (one(image(x))[:, None] * WEIGHT[:, :20, None, None]).sum(2), (1, 1)),
    "groups of outputs": (
        lambda x: (one(x)[:, :, None, None] * WEIGHT.unflatten(0, (2, 3))).sum(-1),
        (1, 1),
    ),
    "vector": (lambda x: one(x) @ WEIGHT[0], (1, 1)),
    "mv": (lambda x: torch.mv(one(x)[:, 0], WEIGHT[1]), (1, 1)),
    "einsum": (lambda x: torch.einsum("bti,oi->bot", one(x), WEIGHT), (1, 1)),
    "einsum, weight first": (lambda x: torch.einsum("oi,bti->bto", WEIGHT, one(x)), (1, 1)),
    "einsum of a vector": (lambda x: torch.einsum("bti,i->bt", one(x), WEIGHT[0]), (1, 1)),
    "einsum of an image": (
        lambda x: torch.einsum("nchw,oc->nohw", one(image(x)), WEIGHT[:, :20]),
        (1, 1),
    ),
    "tensordot": (lambda x: torch.tensordot(one(x), WEIGHT, dims=([2], [1])), (1, 1)),
    "inner": (lambda x: torch.inner(one(x), WEIGHT), (1, 1)),
}


class Products(nn.Module):
    """Every spelling, side by side."""

    def forward(self, x):
        return torch.cat([each(x).reshape(len(x), -1) for each, _ in SPELLINGS.values()], 1)


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_they_are_packed_and_exact(runtime):
    """Sums of whole numbers and halves: PyTorch's are exact in any order."""
    artefact = tvm_insta.build(Products().eval(), X[:1], max_batch=3, runtime=runtime)
    layers = artefact.manifest.layers
    assert [(layer.kind, layer.op) for layer in layers] == [("binary", "dense")] * len(SPELLINGS)
    assert [(layer.bits, layer.weight_bits) for layer in layers] == [
        b for _, b in SPELLINGS.values()
    ]
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        assert (artefact(X.numpy()) == Products()(X).numpy()).all(), f"seed {SEED}"


FUNCTIONS = {
    "mul": torch.mul,
    "eq": lambda a, w: (a == w).float(),
    "distance": lambda a, w: (a - w).abs(),
    "larger": torch.maximum,
    "above": lambda a, w: torch.where(a > w, 2.0, -1.0),
    "sum": torch.add,
}


@settings(max_examples=10)
@given(
    function=st.sampled_from(sorted(FUNCTIONS)),
    low=st.sampled_from([-1.0, 0.0, 0.5]),
    high=st.sampled_from([1.0, 2.0, 3.0]),
    weights=st.lists(st.sampled_from([-1.0, 0.0, 1.0, 2.0]), min_size=2, max_size=2, unique=True),
    swapped=st.booleans(),
    kept=st.booleans(),
)
def test_any_function_of_two_values_is_a_product(function, low, high, weights, swapped, kept):
    weight = torch.where(TRUE, *weights)

    def network(x):
        a = torch.where(x >= 0.5, high, low)[:, None]
        a, w = (a.transpose(1, 2), weight.T) if swapped else (a, weight)
        return FUNCTIONS[function](a, w).sum(1 if swapped else 2, keepdim=kept)

    x = X[:, 0]
    graph = exported(network, x)
    expected = network(x)
    layers = rewrite_layers(graph).layers
    # A step that is no power of two divides the weights: they are rounded, and so are 40 products.
    exact = math.log2(high - low).is_integer()
    most = 0.0 if exact else 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(graph(x), expected, rtol=0, atol=most)
    assert all(layer.binary for layer in layers)


NOT_LAYERS = {
    "real weights": lambda x: (one(x)[:, :, None] * (WEIGHT + 0.01 * X[0, :1])).sum(-1),
    "real input": lambda x: (x[:, :, None] * WEIGHT).sum(-1),
    "a weight for each token": lambda x: (one(x) * WEIGHT[:TOKENS]).sum(-1),
    "few values": lambda x: (one(x)[:, :, None, :8] * WEIGHT[:, :8]).sum(-1),
    "no linear function": lambda x: (three(x)[:, :, None] == WEIGHT * 0.5).float().sum(-1),
    "two computed": lambda x: (one(x) * one(x.roll(1, 1))).sum(-1),
    "a sum alone": lambda x: (one(x)[:, :, None] * WEIGHT[:, :1]).sum(-1),
}


@pytest.mark.parametrize("name", NOT_LAYERS)
def test_others_stay_as_they_are(name):
    graph = exported(NOT_LAYERS[name], X)
    with torch.no_grad():
        before = graph(X)
        assert rewrite_layers(graph).layers == []
        assert torch.equal(graph(X), before)


def test_a_layer_is_named_by_its_weight():
    class Broadcast(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(WEIGHT)

        def forward(self, x):
            return (one(x).unsqueeze(-2) * torch.sign(self.weight)).sum(-1)

    network = nn.Sequential(nn.Linear(INPUTS, INPUTS), Broadcast())
    artefact = tvm_insta.build(network.eval(), X[:1], max_batch=2, runtime="c")
    assert [layer.name for layer in artefact.manifest.layers] == ["0", "1"]
    assert artefact.manifest.layers[1].kind == "binary"


def test_levels_of_an_image_behind_it():
    """A sum of few levels is levels itself, in front of the next layer."""

    def network(x):
        few = (one(x)[:, :, None, :8] * WEIGHT[:, :8]).sum(-1)
        return F.linear(few, WEIGHT[:4, :OUTPUTS])

    artefact = tvm_insta.build(Network(network), X[:1], max_batch=3, runtime="c")
    assert [(layer.kind, layer.bits) for layer in artefact.manifest.layers] == [("binary", 4)]
    assert (artefact(X.numpy()) == network(X).numpy()).all()
