"""Levels at some places of an even grid are packed as codes with gaps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_insta
from tests.frontend.torch.graphs import Network, exported
from tvm_insta.frontend.torch.levels.grid import grid_of
from tvm_insta.frontend.torch.levels.layers import rewrite_layers

SEED = 5
GENERATOR = torch.Generator().manual_seed(SEED)
X = torch.randint(-9, 10, (3, 4, 5, 5), generator=GENERATOR) / 2
X[1, 2, 3], X[2, 0, 0, 0], X[2, 1, 1, 1] = math.nan, math.inf, -math.inf
WEIGHT = torch.randn(6, 4, 3, 3, generator=GENERATOR).sign()


def staircase(x, values, *, nan_on_top):
    """The next value at each of -2, -1, ...; NaN has the first value or the last."""
    y = torch.full_like(x, values[0])
    for at, value in enumerate(values[1:]):
        passed = ~(x < at - 2) if nan_on_top else x >= at - 2
        y = torch.where(passed, value, y)
    return y


@st.composite
def level_sets(draw):
    """Ascending or descending places of a grid of at most 16, times a power of two, shifted."""
    places = draw(st.lists(st.integers(1, 15), min_size=1, max_size=5, unique=True))
    scale, first = draw(st.sampled_from([1.0, 0.5, 4.0])), draw(st.integers(-20, 20))
    values = sorted({0, *places}, reverse=draw(st.booleans()))
    return [scale * (first + value) for value in values], draw(st.booleans())


@settings(max_examples=8)
@given(st.lists(level_sets(), min_size=5, max_size=5))
def test_layers_of_levels_with_gaps_are_exact(chosen):
    def network(x):
        levels = [staircase(x, values, nan_on_top=top) for values, top in chosen]
        pairs = enumerate(levels)  # equal layers of equal levels are one
        return tuple(F.conv2d(level, WEIGHT.roll(at, 0), padding=1) for at, level in pairs)

    graph = exported(network, X)
    layers = rewrite_layers(graph).layers
    for layer, (values, _) in zip(layers, chosen, strict=True):
        assert layer.binary
        assert layer.bits == (grid_of(sorted(values)).count - 1).bit_length()
    with torch.no_grad():
        for found, expected in zip(graph(X), network(X), strict=True):
            assert torch.equal(found, expected)


CHOSEN = [([0.0, 1.0, 3.0], True), ([3.5, 1.5, -1.5], False), ([7.0, -8.0], True), ([0, 2, 9], 0)]


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_artefacts_are_exact(runtime):
    def network(x):
        levels = [staircase(x, values, nan_on_top=top) for values, top in CHOSEN]
        return torch.cat([F.conv2d(level, WEIGHT, padding=1) for level in levels], 1)

    artefact = tvm_insta.build(Network(network), X[:1], max_batch=3, runtime=runtime)
    assert [layer.bits for layer in artefact.manifest.layers] == [2, 3, 1, 4]
    assert artefact.manifest.options["checked"] == "passed"
    assert (artefact(X.numpy()) == network(X).numpy()).all()


@pytest.mark.parametrize(
    ("values", "grid"),
    [
        ((-1.0, 1.0), (2.0, (0, 1))),
        ((0.0, 1.0, 3.0), (1.0, (0, 1, 3))),
        ((0.0, 2 / 3, 1.0), (1 / 3, (0, 2, 3))),
        ((-4.0, 0.5, 5.0), (4.5, (0, 1, 2))),
        ((0.0, 6.0, 10.0), (2.0, (0, 3, 5))),
        ((0.0, 1.0, 15.0), (1.0, (0, 1, 15))),
        ((0.0, 1.0, 16.0), None),
        ((0.0, 1.0, 1.0001), None),
        ((-1e9, -1.0, 1.0), None),
        ((2.0,), (0.0, (0,))),
    ],
)
def test_grids(values, grid):
    found = grid_of(values)
    assert (None if found is None else (pytest.approx(found.step), found.places)) == grid
