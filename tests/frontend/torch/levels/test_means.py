"""Means and sums of a few levels are levels, and so are their layers packed; others say why not."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tvm_insta
from tests.frontend.torch.graphs import exported, results, values
from tvm_insta.frontend import Reason
from tvm_insta.frontend.torch.graph import base_name
from tvm_insta.frontend.torch.levels.grid import grid_of
from tvm_insta.frontend.torch.levels.layers import rewrite_layers
from tvm_insta.frontend.torch.levels.values import Levels

CHANNELS, SIZE = 6, 7
SEED = 3
GENERATOR = torch.Generator().manual_seed(SEED)
X = torch.randint(-6, 7, (3, CHANNELS, SIZE, SIZE), generator=GENERATOR) / 4
WEIGHT = torch.randn(5, CHANNELS, 2, 2, generator=GENERATOR).sign()
QUANTISERS = {
    "bit": lambda x: (x >= 0.25).float(),
    "signs": lambda x: torch.where(x >= 0, 1.0, -1.0),
    "sign": torch.sign,
    "0.1 * sign": lambda x: torch.where(x >= 0, 0.1, -0.1),
    "thirds": lambda x: torch.round(x.clamp(0, 1) * 3) / 3,
    "two bits": lambda x: torch.round(x.clamp(-0.5, 1) * 2) * 0.5,
    "about 1": lambda x: torch.where(x >= 0, 1.0 + 2**-23, 1.0),  # sums of which are rounded
    "with a gap": lambda x: (x >= 0).float() + 2 * (x >= 1).float(),
}
POOLS = {"avg_pool2d": F.avg_pool2d, "adaptive": F.adaptive_avg_pool2d}


@st.composite
def means(draw):
    """What averages or sums an image of `SIZE`, in words, and as a function."""
    kind = draw(st.sampled_from(["avg_pool2d", "adaptive", "mean", "sum"]))
    if kind == "adaptive":
        size = draw(st.tuples(st.integers(2, 7), st.integers(2, 7)))
        return f"adaptive {size}", lambda x: F.adaptive_avg_pool2d(x, size)
    if kind in ("mean", "sum"):
        parts = draw(st.sampled_from([1, 2, 3]))
        kept = draw(st.booleans())

        def over_frames(x):
            several = x.unflatten(1, (parts, -1))
            y = getattr(several, kind)(1, keepdim=kept)
            return y.flatten(1, 2) if kept else y

        return f"{kind} of {parts} frames", over_frames
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    given = {
        "stride": draw(st.sampled_from([None, 1, 2])),
        "padding": draw(st.sampled_from([0, 0, tuple(size // 2 for size in kernel)])),
        "ceil_mode": draw(st.booleans()),
        "count_include_pad": draw(st.booleans()),
        "divisor_override": draw(st.sampled_from([None, None, 3, 8])),
    }
    return f"{kernel} {given}", lambda x: F.avg_pool2d(x, kernel, **given)


def several():
    """Means of quantisers, side by side: an export takes most of a second."""
    one = st.tuples(st.sampled_from(sorted(QUANTISERS)), means())
    return st.lists(one, min_size=6, max_size=6)


def averaged(x, chosen):
    return [function(QUANTISERS[quantiser](x)) for quantiser, (_, function) in chosen]


@settings(max_examples=8)
@given(several())
def test_values_are_all_that_occur(chosen):
    graph = exported(lambda x: tuple(averaged(x, chosen)), X)
    levels = Levels()
    x = torch.randn(64, *X.shape[1:], generator=torch.Generator().manual_seed(SEED))
    given_values = values(graph, x)
    for node in results(graph):
        exact, near = levels.values(node), levels.nearby(node)
        occurring = given_values[node].flatten()
        if exact is not None:
            assert set(occurring.unique().tolist()) <= set(exact)
        if near is not None:
            numbers = torch.tensor(near)
            off = (occurring[:, None] - numbers).abs().amin(1)
            assert float(off.max()) <= 1e-5 * float(numbers.abs().max())


@settings(max_examples=5)
@given(several())
def test_layers_are_packed_where_levels_are_on_a_grid(chosen):
    def network(x):
        pooled = averaged(x, chosen)
        return tuple(F.conv2d(y, WEIGHT[:, : y.shape[1]], padding=1) for y in pooled)

    graph = exported(network, X)
    convolutions = graph.graph.find_nodes(
        op="call_function", target=torch.ops.aten.convolution.default
    )
    near = [Levels().nearby(node.args[0]) for node in convolutions]
    layers = rewrite_layers(graph).layers
    with torch.no_grad():
        pairs = list(zip(graph(X), network(X), strict=True))
    for found, expected in pairs:
        # Sums of 24 numbers that PyTorch rounded one by one.
        most = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=most)
    for layer, numbers in zip(layers, near, strict=True):
        grid = None if numbers is None or len(numbers) == 1 else grid_of(numbers)
        assert layer.bits == (0 if grid is None else (grid.count - 1).bit_length())
        assert layer.binary == (grid is not None)


EXACT = {
    # of signs: in front of a convolution, bits of what it reads
    "2x2": (lambda s: F.avg_pool2d(s, 2), 3),
    "2x2 and padding": (lambda s: F.avg_pool2d(s, 2, 2, 1), 4),
    "2x2, padding not counted": (lambda s: F.avg_pool2d(s, 2, 2, 1, count_include_pad=False), 3),
    "2x4": (lambda s: F.adaptive_avg_pool2d(s, (4, 2)), 4),
    "two frames": (lambda s: s.unflatten(1, (2, -1)).mean(1), 2),
    "sum of three frames": (lambda s: s.unflatten(1, (3, -1)).sum(1), 2),
    "twice": (lambda s: F.avg_pool2d(F.avg_pool2d(s, (1, 2)), (2, 1)), 3),
    "flattened": (lambda s: F.avg_pool2d(s, 2).flatten(1).unflatten(1, (-1, 4, 4)), 3),
    "scaled": (lambda s: F.avg_pool2d(s, 2) * 0.25, 3),
    "one row": (lambda s: F.avg_pool1d(s.flatten(1, 2), 2).unflatten(1, (-1, 8)), 2),
}


class Means(torch.nn.Module):
    """A layer behind every mean, side by side."""

    def __init__(self, cases, quantiser):
        super().__init__()
        self.cases, self.quantiser = cases, quantiser

    def forward(self, x):
        found = []
        for function, *_ in self.cases.values():
            y = function(self.quantiser(x))
            found.append(F.conv2d(y, WEIGHT[:, :1].repeat(1, y.shape[1], 1, 1)).flatten(1))
        return torch.cat(found, 1)


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_means_of_signs_are_packed_and_exact(runtime):
    """Each mean is a whole number of eighths: PyTorch's sums are exact, and so are ours."""
    network = Means(EXACT, QUANTISERS["signs"]).eval()
    x = torch.randint(-6, 7, (3, CHANNELS, 8, 8), generator=torch.Generator().manual_seed(SEED)) / 4
    artefact = tvm_insta.build(network, x[:1], max_batch=3, runtime=runtime)
    layers = artefact.manifest.layers
    assert [(layer.kind, layer.bits) for layer in layers] == [
        ("binary", bits) for _, bits in EXACT.values()
    ]
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        assert np.array_equal(artefact(x.numpy()), network(x).numpy()), f"seed {SEED}"


ROUNDED = {
    "3x3": (lambda s: F.avg_pool2d(s, 3),),
    "2x3": (lambda s: F.adaptive_avg_pool2d(s, (4, 3)),),
    "three frames": (lambda s: s.unflatten(1, (3, -1)).mean(1),),
    "thirds": (lambda s: F.avg_pool2d(torch.round((s + 1) / 2 * 3) / 3, 2),),
    "shifted": (lambda s: F.relu(F.avg_pool2d(s, 3, 1) + 1 / 9),),
}


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_rounded_means_are_packed(runtime):
    network = Means(ROUNDED, QUANTISERS["signs"]).eval()
    x = torch.randint(-6, 7, (3, CHANNELS, 9, 9), generator=torch.Generator().manual_seed(SEED)) / 4
    artefact = tvm_insta.build(network, x[:1], max_batch=3, runtime=runtime)
    assert {layer.kind for layer in artefact.manifest.layers} == {"binary"}
    assert artefact.manifest.options["checked"] == "passed"
    with torch.no_grad():
        expected = network(x).numpy()
    # PyTorch rounds each mean to float32, and adds 24 of them.
    np.testing.assert_allclose(artefact(x.numpy()), expected, rtol=0, atol=1e-5)


def all_means(levels, count, divisor):
    """By writing out all sums."""
    sums = itertools.combinations_with_replacement(levels, count)
    return {Fraction(sum(each), divisor) for each in sums}


@pytest.mark.parametrize(
    ("quantiser", "levels"), [("bit", (0, 1)), ("sign", (-1, 0, 1)), ("with a gap", (0, 1, 3))]
)
@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("moved", [False, True])
def test_reasons_count_the_levels(quantiser, levels, kernel, moved):
    def network(x):
        y = F.avg_pool2d(QUANTISERS[quantiser](x), kernel, 1)
        return F.conv2d(y.flip(1) if moved else y, WEIGHT)

    [layer] = rewrite_layers(exported(network, X)).layers
    (reason,) = layer.why_float
    assert reason.code is Reason.MANY_LEVELS
    many = len(all_means(levels, kernel**2, kernel**2))
    assert f"a mean of {kernel**2} elements of {len(levels)} levels each (avg_pool2d" in reason.text
    assert f"which has {many} levels, but at most 16" in reason.text


def test_windows_of_several_sizes_are_counted_together():
    def network(x):
        return F.conv2d(F.avg_pool2d(QUANTISERS["signs"](x), 3, 1, 1), WEIGHT)

    [layer] = rewrite_layers(exported(network, X)).layers
    many = len(set().union(*(all_means((-1, 1), count, 9) for count in (4, 6, 9))))
    assert "of up to 9 elements of 2 levels each" in layer.why_float[0].text
    assert f"has {many} levels" in layer.why_float[0].text


@pytest.mark.parametrize(
    "function",
    [
        lambda x: QUANTISERS["signs"](x).mean(0),  # over the batch
        lambda x: QUANTISERS["signs"](x).mean(),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.avg_pool2d(torch.where(x >= 0, 1.0, 1.0 + 1e-4), 3),  # sums are rounded
    ],
)
def test_what_is_not_known_to_be_few_values(function):
    (node,) = results(exported(function, X))
    assert Levels().nearby(node) is None


def test_means_that_are_rounded_next_to_ties_are_compared_as_they_are():
    """They lie between the ends of what is averaged; on which side of a tie, is computed."""
    graph = exported(
        lambda x: torch.round(F.avg_pool2d(QUANTISERS["0.1 * sign"](x), 2) * 10 + 0.5), X
    )
    (node,) = results(graph)
    steps = Levels().steps(node)
    assert steps is not None and steps.values == (-1.0, 0.0, 1.0, 2.0)
    assert base_name(steps.x) in ("aten.avg_pool2d", "aten.mul", "aten.add")
    x = torch.randn(64, *X.shape[1:], generator=torch.Generator().manual_seed(SEED))
    assert set(values(graph, x)[node].unique().tolist()) <= set(steps.values)


@pytest.mark.parametrize(
    ("quantiser", "noted"), [("signs", False), ("bit", False), ("sign", False), ("thirds", True)]
)
def test_notes_say_where_nan_becomes_a_level(quantiser, noted):
    """round(NaN) is NaN, and so is PyTorch's mean; the packed mean is the lowest level."""

    def network(x):
        return F.conv2d(F.avg_pool2d(QUANTISERS[quantiser](x), (1, 2)), WEIGHT)

    [layer] = rewrite_layers(exported(network, X)).layers
    assert layer.binary
    assert any("NaN counts as the lowest level" in note for note in layer.notes) == noted
