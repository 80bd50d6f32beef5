"""What can never be 0: the odd sums of a binary layer, however they are scaled and clamped."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.frontend.torch.graphs import exported
from tvm_insta.frontend.torch.levels.layers import rewrite_layers

GENERATOR = torch.Generator().manual_seed(0)
FIRST = torch.randn(5, 3, 1, 1, generator=GENERATOR).sign()  # sums of 3 are odd
SECOND = torch.randn(4, 5, 1, 1, generator=GENERATOR).sign()
BOUND = torch.tensor(1.5)
BOUNDS = torch.tensor([0.5, 1.0, 2.0, 3.0, 4.0]).reshape(5, 1, 1)
CASES = {
    "numbers": (lambda y: y.clamp(-1, 1), True),
    "one side": (lambda y: y.clamp(max=1), True),
    "zero as a bound": (lambda y: y.clamp(0, 1), True),
    "zero for +1": (lambda y: y.clamp(-2, 0), True),
    "a tensor": (lambda y: y.clamp(-BOUND, BOUND), True),
    "a tensor on one side": (lambda y: y.clamp(min=-BOUND), True),
    "a tensor per channel": (lambda y: y.clamp(-BOUNDS, BOUNDS) / BOUNDS, True),
    "a tensor with a 0": (lambda y: y.clamp(-BOUNDS + 0.5, BOUNDS), False),
    "computed from the input": (lambda y: y.clamp(-y.amax((2, 3), keepdim=True), BOUND), False),
}


@pytest.mark.parametrize("name", CASES)
def test_two_levels_behind_a_clamp(name):
    clamp, two = CASES[name]

    def network(x):
        y = F.conv2d(torch.where(x >= 0, 1.0, -1.0), FIRST)
        return F.conv2d(torch.sign(clamp(y)), SECOND)

    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    graph = exported(network, x)
    layers = rewrite_layers(graph).layers
    with torch.no_grad():
        result = graph(x)
    assert torch.equal(result, network(x))
    assert [layer.binary for layer in layers] == [True, True]
    levels = [node for node in graph.graph.nodes if "levels" in str(node.target)]
    assert (len(levels[-1].args[1]) == 1) is two
