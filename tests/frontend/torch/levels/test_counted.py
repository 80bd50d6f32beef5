"""Levels as the number of thresholds that are passed: counted, searched, or the best of a few."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tvm_insta
from tests.frontend.torch.graphs import exported, operators, results
from tvm_insta.frontend.torch.levels.layers import rewrite_layers
from tvm_insta.frontend.torch.levels.values import Levels

SEED = 13
GENERATOR = torch.Generator().manual_seed(SEED)
X = torch.randint(-8, 9, (3, 4, 12), generator=GENERATOR) / 4  # on the thresholds, too
WEIGHT = torch.randn(5, 12, generator=GENERATOR).sign()
T = torch.tensor([-1.0, 0.0, 0.5])
CODEBOOK = torch.tensor([-1.0, 0.0, 1.0])
BITS = torch.tensor([-3.0, -1.0, 1.0, 3.0])
SPELLINGS = {
    # the levels of x, and their bits
    "count_nonzero": (lambda x: torch.count_nonzero(x[..., None] >= T, dim=-1).float(), 2),
    "sum of truths": (lambda x: (x[..., None] > T).sum(-1).float(), 2),
    "sum of bits": (lambda x: (x[..., None] > T).float().sum(-1, keepdim=True)[..., 0], 2),
    "in front": (lambda x: (x >= T.view(-1, 1, 1, 1)).float().sum(0), 2),
    "bucketize": (lambda x: torch.bucketize(x, T).float(), 2),
    "bucketize right": (lambda x: torch.bucketize(x, T, right=True).float() - 1.5, 2),
    "searchsorted": (lambda x: torch.searchsorted(T, x).to(x.dtype) * 2 - 3, 2),
    "looked up": (lambda x: BITS[torch.bucketize(x, T)], 2),
    "argmax of a stack": (lambda x: torch.stack([-x, x * 2], -1).argmax(-1).float(), 1),
    "nearest": (lambda x: CODEBOOK[(x[..., None] - CODEBOOK).abs().argmin(-1)], 2),
    "nearest by squares": (
        lambda x: (x[..., None] - CODEBOOK).square().argmin(-1).float() - 1,
        2,
    ),
    "first above": (
        lambda x: (
            (x[..., None] < torch.tensor([-1.0, 0.0, 1.0, math.inf])).float().argmax(-1).float()
        ),
        2,
    ),
    "softmax of two": (lambda x: F.softmax(torch.stack([x, -x], -1), -1)[..., 0].round(), 1),
}


class Counted(nn.Module):
    """A layer behind every spelling."""

    def forward(self, x):
        return torch.cat([F.linear(each(x), WEIGHT) for each, _ in SPELLINGS.values()], 1)


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_layers_behind_them_are_packed_and_exact(runtime):
    artefact = tvm_insta.build(Counted(), X[:1], max_batch=3, runtime=runtime)
    assert [layer.bits for layer in artefact.manifest.layers] == [b for _, b in SPELLINGS.values()]
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        assert (artefact(X.numpy()) == Counted()(X).numpy()).all(), f"seed {SEED}"


@settings(max_examples=8)
@given(
    thresholds=st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=15, unique=True),
    right=st.booleans(),
)
def test_boundaries_are_the_thresholds(thresholds, right):
    """The kernel compares x itself: no search is left in the graph."""
    row = torch.tensor(sorted(thresholds))
    near = torch.cat([row, row.nextafter(torch.tensor(9e9)), row.nextafter(torch.tensor(-9e9))])
    x = near[torch.arange(36) % len(near)].reshape(3, 12)

    def network(x):
        return F.linear(torch.bucketize(x, row, right=right).float(), WEIGHT)

    graph = exported(network, x)
    [layer] = rewrite_layers(graph).layers
    assert layer.bits == len(thresholds).bit_length()
    assert not any("bucketize" in name for name in operators(graph))
    normal = torch.where(x.abs() < 1e-37, 0.0, x)  # some processors take the smallest for 0
    assert torch.equal(graph(normal), network(normal))


UNKNOWN = {
    "rows of boundaries": lambda x: torch.searchsorted(T.expand(4, 3).contiguous(), x[0]),
    "computed boundaries": lambda x: torch.bucketize(T, x[0, 0]),
    "by a permutation": lambda x: torch.searchsorted(T, x, sorter=torch.tensor([0, 1, 2])),
    "too many": lambda x: torch.bucketize(x, torch.arange(16.0)),
    "argmax of 17": lambda x: F.pad(x, (0, 5)).argmax(-1),
    "argmax of all": lambda x: x.argmax(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_others_are_not_known(name):
    (node,) = results(exported(UNKNOWN[name], X))
    assert Levels().nearby(node) is None


def test_numbers_are_searched_among_one_boundary():
    """A tensor of one number is still no boundary without dimensions."""
    graph = exported(lambda x: torch.bucketize(torch.ones_like(x), T[:1]) + x, X)
    assert torch.equal(graph(X), 1 + X)
