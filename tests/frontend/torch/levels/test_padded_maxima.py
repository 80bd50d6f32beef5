"""Maximum pools of levels that were padded with -infinity have no level more."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tvm_insta
from tests.frontend.torch.graphs import exported, results
from tvm_insta.frontend.torch.levels.layers import rewrite_layers
from tvm_insta.frontend.torch.levels.values import Levels

SEED = 7
GENERATOR = torch.Generator().manual_seed(SEED)
X = torch.randint(-5, 6, (2, 3, 7, 6), generator=GENERATOR) / 2
X[0, 0, 0, 0], X[0, 1, 3, 2], X[1, 2] = math.nan, -math.inf, -math.inf
WEIGHTS = torch.randn(8, 4, 3, 2, 2, generator=GENERATOR).sign()
WEIGHT = WEIGHTS[0]


@st.composite
def geometries(draw):
    """Pads left, right, above and below, and what the pool is given."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = tuple(draw(st.integers(0, 3)) for _ in range(4))
    own = draw(st.booleans())
    return pads, {
        "kernel_size": kernel,
        "stride": draw(st.sampled_from([None, 1, 2, 3, (1, 2)])),
        "padding": tuple(size // 2 for size in kernel) if own else 0,
        "dilation": draw(st.sampled_from([1, 1, 1, 2])),
        "ceil_mode": draw(st.booleans()),
    }


def pooled(x, pads, given):
    return F.max_pool2d(F.pad(x, pads, value=-math.inf), **given)


@settings(max_examples=6)
@given(st.lists(geometries(), min_size=8, max_size=8))
def test_layers_are_packed_where_every_window_has_an_element(chosen):
    def network(x):
        signs = torch.where(x >= 0.25, 1.0, -1.0)
        pools = [pooled(signs, *each) for each in chosen]
        pairs = zip(pools, WEIGHTS, strict=True)  # equal layers of equal levels are one
        return tuple(F.conv2d(y, weight, padding=1) for y, weight in pairs)

    graph = exported(network, X)
    layers = rewrite_layers(graph).layers
    with torch.no_grad():
        found, expected = graph(X), network(X)
    for layer, each, ours, theirs in zip(layers, chosen, found, expected, strict=True):
        bare = bool(torch.isinf(pooled(torch.ones_like(X), *each)).any())
        assert layer.binary == (not bare), each
        assert torch.equal(ours.nan_to_num(9.0), theirs.nan_to_num(9.0)), each


def same(x, kernel, stride):
    """TensorFlow's "SAME" padding: the odd element is padded behind."""
    wide = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
    pads = [side for both in reversed(wide) for side in (both // 2, both - both // 2)]
    return F.max_pool2d(F.pad(x, pads, value=-math.inf), kernel, stride)


CASES = {
    "SAME 2, 1": lambda s: same(s, 2, 1),
    "SAME 3, 2": lambda s: same(s, 3, 2),
    "SAME 2, 2": lambda s: same(s, 2, 2),
    "causal": lambda s: F.max_pool2d(F.pad(s, (2, 0, 0, 0), value=-math.inf), (1, 3), 1),
    "before": lambda s: F.max_pool2d(F.pad(s, (1, 0, 1, 0), value=-math.inf), 3, 1),
    "rows": lambda s: F.max_pool1d(
        F.pad(s.flatten(2), (0, 1), value=-math.inf), 2, 1
    ).unflatten(2, (6, 7)),
}  # fmt: skip
QUANTISERS = {
    "signs": (lambda x: torch.where(x >= 0, 1.0, -1.0), 1),
    "sign": (torch.sign, 2),
    "falling": (lambda x: torch.where(x >= 0.5, -1.0, 1.0), 1),
    "per channel": (lambda x: torch.where(x >= torch.tensor([[[0.5]], [[0]], [[-1]]]), 1.0, 0), 1),
}


class Pools(nn.Module):
    """A layer behind every pool of every quantiser."""

    def forward(self, x):
        found = [
            F.conv2d(case(quantiser(x)), WEIGHT).flatten(1)
            for quantiser, _ in QUANTISERS.values()
            for case in CASES.values()
        ]
        return torch.cat(found, 1)


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_layers_behind_them_are_packed(runtime):
    x = torch.randint(-5, 6, (3, 3, 7, 6), generator=torch.Generator().manual_seed(SEED)) / 2
    artefact = tvm_insta.build(Pools(), x[:1], max_batch=3, runtime=runtime)
    bits = [bits for _, bits in QUANTISERS.values() for _ in CASES]
    assert [layer.bits for layer in artefact.manifest.layers] == bits
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        assert (artefact(x.numpy()) == Pools()(x).numpy()).all(), f"seed {SEED}"


@pytest.mark.parametrize("value", [-1e9, math.inf, -2.0])
def test_other_numbers_that_are_padded_are_levels(value):
    graph = exported(lambda x: F.max_pool2d(F.pad(torch.sign(x), (1, 0), value=value), (1, 2)), X)
    (node,) = results(graph)
    found = Levels().values(node)
    assert found == (None if math.isinf(value) else (value, -1.0, 0.0, 1.0))
