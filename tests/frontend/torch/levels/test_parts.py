"""Levels assigned to parts of a tensor, over numbers, levels and each other, are levels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tvm_insta
from tests.frontend.torch.graphs import Network, exported
from tvm_insta.frontend.torch.levels.layers import rewrite_layers

CHANNELS, SIZE = 6, 4
WEIGHT = torch.randn(5, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(0)).sign()
X = torch.randn(3, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
GROUNDS = {
    "zeros": torch.zeros_like,
    "ones": lambda x: -torch.ones_like(x),
    "new zeros": lambda x: x.new_zeros(x.shape),
    "levels": lambda x: torch.sign(x.flip(1)),
    "other levels": lambda x: (x > 0.5).float(),
}
SOURCES = {
    "sign": torch.sign,
    "bit": lambda x: torch.where(x >= 0.3, 1.0, -1.0),
    "a number": torch.ones_like,
}
Part = tuple[int, int, int, int, str]


def parts() -> st.SearchStrategy[list[Part]]:
    """Dimension, begin, end, step, and what is assigned."""
    part = st.tuples(
        st.sampled_from([1, 2, 3]),
        st.integers(0, 2),
        st.integers(3, SIZE),
        st.integers(1, 2),
        st.sampled_from(sorted(SOURCES)),
    )
    return st.lists(part, min_size=1, max_size=3)


def assigned(x, ground, chosen):
    y = GROUNDS[ground](x).clone()
    for axis, begin, end, step, source in chosen:
        places = [slice(None)] * 4
        places[axis] = slice(begin, end, step)
        y[tuple(places)] = SOURCES[source](x)[tuple(places)]
    return y


@settings(max_examples=15)
@given(ground=st.sampled_from(sorted(GROUNDS)), chosen=parts())
def test_layers_behind_assignments_are_packed(ground, chosen):
    # Numbers alone are no activation.
    assume(not torch.equal(assigned(X, ground, chosen), assigned(-X, ground, chosen)))

    def network(x):
        return F.conv2d(assigned(x, ground, chosen), WEIGHT, padding=1)

    graph = exported(network, X)
    [layer] = rewrite_layers(graph).layers
    assert layer.binary
    with torch.no_grad():
        assert torch.equal(graph(X), network(X))


@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_channels_shifted_in_time(runtime):
    """TSM: some channels come from the next frame, some from the one before, others stay."""

    def network(x):
        y, z = torch.sign(x), torch.zeros_like(x)
        z[:, :-1, :1], z[:, 1:, 1:2], z[:, :, 2:] = y[:, 1:, :1], y[:, :-1, 1:2], y[:, :, 2:]
        return F.conv2d(z.flatten(0, 1), WEIGHT).unflatten(0, (-1, x.shape[1])).flatten(1)

    x = torch.randn(2, 4, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    artefact = tvm_insta.build(Network(network), x[:1], max_batch=2, runtime=runtime)
    assert [layer.kind for layer in artefact.report.layers] == ["binary"]
    assert artefact.manifest.options["checked"] == "passed"
    assert (artefact(x.numpy()) == network(x).numpy()).all()
