"""Signs that tell -0.0 from 0.0, and signs by division, which are NaN at 0."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.frontend.torch.graphs import exported, results, values
from tvm_insta.frontend.layers import Reason
from tvm_insta.frontend.torch.levels.compared import compared
from tvm_insta.frontend.torch.levels.layers import rewrite_layers
from tvm_insta.frontend.torch.levels.values import Levels

WEIGHT = torch.where(
    torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) > 0, 1.0, -1.0
)
SIGNED = {
    "copysign": lambda x: torch.copysign(torch.ones_like(x), x),
    "copysign of a scale": lambda x: torch.copysign(torch.full_like(x, 0.25), x) * 2,
    "signbit": lambda x: torch.where(torch.signbit(x), -1.0, 1.0),
    "of levels with a 0": lambda x: torch.copysign(torch.ones_like(x), torch.sign(x)),
    "signbit of levels with a 0": lambda x: torch.signbit(torch.sign(x)).float(),
    "levels by levels": lambda x: torch.copysign((x > 1).float() + 1, x),
}


def image():
    x = torch.linspace(-2, 2, 96).reshape(2, 3, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 0, 1], x[1, 0, 2, 2] = 0.0, -0.0, -0.0
    return x


@pytest.mark.parametrize("name", SIGNED)
def test_the_sign_of_a_zero_counts(name):
    graph = exported(SIGNED[name], image())
    (node,) = results(graph)
    steps = compared(node, Levels())
    assert steps is not None
    known = values(graph, image())
    code = torch.zeros(known[node].shape, dtype=torch.int64)
    for threshold in steps.thresholds:
        code += getattr(torch, steps.compare)(known[steps.x], threshold)
    assert torch.equal(torch.tensor(steps.values)[code], known[node].float())


def layer_of(function):
    graph = exported(lambda x: F.conv2d(function(x), WEIGHT), torch.zeros(2, 3, 6, 6))
    [layer] = rewrite_layers(graph).layers
    return graph, layer


@pytest.mark.parametrize("divide", [lambda x: x / x.abs(), lambda x: x.abs() / x])
def test_a_sign_by_division_is_nan_at_zero(divide):
    graph, layer = layer_of(divide)
    assert [why.code for why in layer.why_float] == [Reason.UNDEFINED_AT_ZERO]
    assert "torch.where" in layer.why_float[0].text
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    x[0, 1, 2, 2] = 0
    assert torch.equal(graph(x), F.conv2d(divide(x), WEIGHT)) or bool(graph(x).isnan().any())


def test_a_sign_by_division_of_odd_sums_is_packed():
    """27 products of +-1 are never 0."""
    second = WEIGHT[:, :1].repeat(1, 8, 1, 1)

    def function(x):
        y = F.conv2d(torch.where(x >= 0, 1.0, -1.0), WEIGHT)
        return F.conv2d(y / y.abs(), second)

    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    graph = exported(function, x)
    assert [layer.binary for layer in rewrite_layers(graph).layers] == [True, True]
    assert torch.equal(graph(x), function(x))


@pytest.mark.parametrize(
    "function", [torch.exp, lambda x: 1 / x, lambda x: x / (x * x), lambda x: x / x.exp()]
)
def test_other_real_inputs_keep_their_reason(function):
    _, layer = layer_of(function)
    assert [why.code for why in layer.why_float] == [Reason.REAL_INPUT]
