"""Tensors made of levels: their values, and the comparisons that give them."""

from __future__ import annotations

import pytest
import torch

from tests.frontend.torch.graphs import exported, operators, results, values
from tvm_insta.frontend.torch.levels.compared import compared
from tvm_insta.frontend.torch.levels.values import Levels


def quantised(bits, x):
    step = 2.0 / (2**bits - 1)
    return torch.round((torch.clamp(x, -1, 1) + 1) / step) * step - 1


DIFFERENCES = {
    "all but the leading bit": lambda q, bits: q - torch.where(q > 0, 1.0, -1.0) * (2 / 3),
    "square": lambda q, bits: q * q,
    "distance of the middle": lambda q, bits: (q.abs() - 0.5).abs(),
    "the last bit": lambda q, bits: ((q + 1) * (2**bits - 1) / 2).round() % 2,
    "added to its sign": lambda q, bits: torch.sign(q) + q * 0.5,
}


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_is_computed_of_one_tensor_has_the_values_that_occur(name, bits):
    """No combinations of the operands' values that cannot meet."""
    graph = exported(lambda x: DIFFERENCES[name](quantised(bits, x), bits), torch.zeros(2, 3, 4))
    (node,) = results(graph)
    x = torch.linspace(-1.5, 1.5, 4800).reshape(-1, 3, 4)
    occurring = values(graph, x)[node]
    levels = Levels()
    assert set(occurring.unique().tolist()) == set(levels.values(node) or ())
    steps = compared(node, levels)
    assert steps is not None
    apart = torch.tensor(steps.values)
    assert bool((apart.diff().abs() > 1e-3).all())
    at = values(graph, x)[steps.x]
    code = torch.zeros(at.shape, dtype=torch.int64)
    for threshold in steps.thresholds:
        code += getattr(torch, steps.compare)(at, threshold)
    torch.testing.assert_close(apart[code], occurring, rtol=0, atol=1e-6)


def test_two_roundings_of_a_value_are_one_level():
    """-1/3 as ``-1 + 2/3`` and as ``1/3 - 2/3``."""
    lead = DIFFERENCES["all but the leading bit"]
    graph = exported(lambda x: lead(quantised(2, x), 2), torch.zeros(2, 3, 4))
    (node,) = results(graph)
    levels = Levels()
    steps = compared(node, levels)
    assert steps is not None
    assert len(levels.values(node) or ()) > len(steps.values) == 2


MASKS = [-1e4, -1e9, 1e30, torch.finfo(torch.float32).min]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("size", [1.0, 0.02, 300.0])
def test_levels_beside_a_huge_one_stay_apart(mask, size):
    """-1e9 masks what attention must not see; +1 and -1 are no roundings of one number."""

    def masked(x):
        bits = torch.where(x * x.roll(1, -1) > 0, size, -size)
        return torch.where(x * x.roll(2, -1) > 4, mask, bits)

    (node,) = results(exported(masked, torch.zeros(2, 3, 4)))
    levels = Levels()
    steps = compared(node, levels)
    assert steps is not None
    assert set(steps.values) == set(levels.values(node) or ()) and len(steps.values) == 3


def test_what_is_never_infinite_keeps_its_levels():
    """nan_to_num chooses among the largest numbers, too, which no sign ever is."""
    (node,) = results(exported(lambda x: torch.nan_to_num(torch.sign(x)), torch.zeros(2, 3, 4)))
    steps = compared(node, Levels())
    assert steps is not None and {-1.0, 0.0, 1.0} <= set(steps.values)


def written_data(x):
    """BinaryNet: the signs of the input become the input's data."""
    y = x + 0.5
    y.data = torch.sign(y.data)
    return y * 2


def written_in_place(x):
    y = x + 0.5
    y.copy_(torch.sign(y))
    return y * 2


@pytest.mark.parametrize("function", [written_data, written_in_place])
def test_a_tensor_written_into_another_is_that_tensor(function):
    x = torch.linspace(-3, 3, 24).reshape(2, 3, 4)
    graph = exported(function, x)
    assert not any("copy" in name for name in operators(graph))
    assert torch.equal(graph(x), torch.sign(x + 0.5) * 2)
    (node,) = results(graph)
    assert Levels().values(node) == (-2.0, 0.0, 2.0)


def mean_written(x):
    y = torch.sign(x)
    y.copy_(x.mean((1, 2), keepdim=True))
    return y


def truths_written(x):
    y = torch.zeros_like(x)
    y.copy_(x > 1)
    return torch.sign(x) + y


def integers_written(x):
    y = torch.zeros_like(x, dtype=torch.int32)
    y.copy_(torch.sign(x[:, :1]) * 1.5)
    return y * 2.0


def part_written(x):
    y = torch.sign(x)
    y[:, :, 1:].copy_(x[:, :1, 1:] > 0)
    return y


@pytest.mark.parametrize(
    "function, numbers",
    [
        (mean_written, None),
        (truths_written, {-1.0, 0.0, 1.0, 2.0}),
        (integers_written, {-2.0, 0.0, 2.0}),
        (part_written, {-1.0, 0.0, 1.0}),
    ],
)
def test_a_tensor_has_the_values_that_are_written_into_it(function, numbers):
    x = torch.linspace(-3, 3, 24).reshape(2, 3, 4)
    graph = exported(function, x)
    assert torch.equal(graph(x)[0] if isinstance(graph(x), tuple) else graph(x), function(x))
    (node,) = results(graph)
    found = Levels().values(node)
    assert found is None if numbers is None else set(found or ()) == numbers


def test_a_smaller_tensor_written_into_another_is_expanded():
    def function(x):
        y = x + 0
        y.copy_(torch.sign(x[:, :1]))
        return y

    x = torch.linspace(-3, 3, 24).reshape(2, 3, 4)
    assert torch.equal(exported(function, x)(x), torch.sign(x[:, :1]).expand(2, 3, 4))
