"""Quantisers in many spellings are staircases, with the very thresholds at which they change."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.frontend.torch.graphs import exported, results, values
from tvm_insta.frontend.torch.graph import base_name
from tvm_insta.frontend.torch.levels.ordered import LARGEST, from_order, to_order
from tvm_insta.frontend.torch.levels.steps import Steps
from tvm_insta.frontend.torch.levels.values import Levels

X = torch.zeros(2, 3, 4, 4)
OFFSET = torch.tensor([0.1, -2.0, 0.75]).reshape(1, 3, 1, 1)
TINY = float(np.finfo(np.float32).tiny)
THIRD = 1 / 3


def below(value):
    return float(np.nextafter(np.float32(value), np.float32(-math.inf)))


def above(value):
    return float(np.nextafter(np.float32(value), np.float32(math.inf)))


def pact(x):
    alpha = torch.tensor(2.0)
    y = 0.5 * (x.abs() - (x - alpha).abs() + alpha)
    return torch.round(y * (3 / alpha)) * (alpha / 3)


def masked(x):
    y = torch.zeros_like(x)
    y[x > 0.3] = 1.0
    return y


def straight_through(x):
    soft = torch.tanh(x)
    return (torch.sign(x) - soft).detach() + soft


PLUS_MINUS = (-1.0, 1.0)
THREE = (-1.0, 0.0, 1.0)
# name: (function, operator of the compared tensor if it is not the input, and comparison,
# thresholds, values); a threshold is a number or one per channel, None for one that is not round
CASES = {
    "sign": (torch.sign, "gt", [-TINY, 0.0], THREE),
    "sign of relu": (lambda x: torch.sign(F.relu(x)), "relu gt", [0.0], (0.0, 1.0)),
    "where ge": (lambda x: torch.where(x >= 0, 1.0, -1.0), "ge", [0.0], PLUS_MINUS),
    "where gt": (lambda x: torch.where(x > 0.1, 1.0, -1.0), "ge", [above(0.1)], PLUS_MINUS),
    "where lt": (lambda x: torch.where(x < 0.1, -1.0, 1.0), "ge", [0.1], PLUS_MINUS),
    "bit": (lambda x: (x >= 0.5).float(), "ge", [0.5], (0.0, 1.0)),
    "bit to sign": (lambda x: 2 * (x >= 0.5).float() - 1, "ge", [0.5], PLUS_MINUS),
    "not": (lambda x: torch.logical_not(x < 0.5).float(), "ge", [0.5], (0.0, 1.0)),
    "masked": (masked, "ge", [above(0.3)], (0.0, 1.0)),
    "falling": (lambda x: torch.where(x >= 2.0, -0.5, 0.5), "ge", [2.0], (0.5, -0.5)),
    "round of clamp": (
        lambda x: torch.round(torch.clamp(x, 0, 1) * 3) / 3,
        "mul ge",  # what is rounded; ties go to even numbers: 0.5 to 0, 1.5 and 2.5 to 2
        [above(0.5), 1.5, above(2.5)],
        (0.0, THIRD, 2 * THIRD, 1.0),
    ),
    "floor": (
        lambda x: torch.floor(torch.clamp(x, -2, 1)),
        "clamp ge",
        [-1.0, 0.0, 1.0],
        range(-2, 2),
    ),
    "PACT": (pact, "ge", [None, None, None], (0.0, 2 * THIRD, 4 * THIRD, 2.0)),
    "per channel": (lambda x: torch.where(x >= OFFSET, 1.0, -1.0), "ge", [OFFSET], PLUS_MINUS),
    "straight through": (straight_through, "gt", [-TINY, 0.0], THREE),
    "wide steps, bounded": (
        lambda x: torch.clamp(torch.round(x / 1000), -2, 1),
        "div ge",
        [None] * 3,
        (-2.0, -1.0, 0.0, 1.0),
    ),
    "absolute": (lambda x: torch.where(x.abs() < 1.0, 1.0, -1.0), "abs ge", [1.0], (1.0, -1.0)),
}


@functools.cache
def found():
    """All cases in one graph: an export takes most of a second."""
    graph = exported(lambda x: tuple(case[0](x) for case in CASES.values()), X)
    levels = Levels()
    nodes = dict(zip(CASES, results(graph), strict=True))
    return graph, {name: (node, levels.steps(node)) for name, node in nodes.items()}


@pytest.mark.parametrize("name", CASES)
def test_thresholds_are_exact(name):
    _, comparison, thresholds, numbers = CASES[name]
    graph, cases = found()
    node, steps = cases[name]
    assert isinstance(steps, Steps)
    operator = "" if steps.x.op == "placeholder" else base_name(steps.x).split(".")[1] + " "
    assert operator + steps.compare == comparison
    assert len(steps.thresholds) == len(thresholds)
    np.testing.assert_allclose(steps.values, list(numbers), rtol=1e-6)
    for own, expected in zip(steps.thresholds, thresholds, strict=True):
        if expected is not None:
            assert torch.equal(own.flatten(), torch.as_tensor(expected).float().flatten())
    # PACT's sum of magnitudes loses its end in the rounding of larger numbers.
    reconstructs(graph, node, steps, most=65536.0 if name == "PACT" else math.inf)


def reconstructs(graph, node, steps, *, channels=3, most=math.inf):
    """The staircase is the function, for numbers of every size and next to every threshold."""
    sizes = from_order(torch.linspace(-0x7F000000, 0x7F000000, 3001).to(torch.int64))
    near = [sizes, torch.linspace(-4, 4, 1601)]
    for threshold in steps.thresholds:
        near += [from_order(to_order(threshold.flatten()) + step) for step in range(-3, 4)]
    x = torch.cat([part.flatten() for part in near])
    x = (
        x[(x.abs() <= most) & ((x == 0) | (x.abs() >= TINY))]
        .reshape(-1, 1, 1, 1)
        .expand(-1, channels, 4, 4)
    )
    known = values(graph, x)
    holds = torch.ge if steps.compare == "ge" else torch.gt
    code = sum(holds(known[steps.x], threshold).long() for threshold in steps.thresholds)
    got = torch.tensor(steps.values)[code]
    torch.testing.assert_close(got, known[node], rtol=1e-6, atol=1e-6)  # (hard - soft) + soft


def test_an_offset_moves_into_the_threshold():
    graph = exported(lambda x: torch.sign(x + OFFSET), X)
    (node,) = results(graph)
    steps = Levels().steps(node)
    assert steps.x.op == "placeholder"
    zero, positive = steps.thresholds
    assert torch.equal(zero, -OFFSET)
    assert torch.equal(positive, torch.nextafter(-OFFSET, torch.tensor(math.inf)))
    reconstructs(graph, node, steps)


def test_a_channel_that_is_always_zero_has_thresholds_that_nothing_reaches():
    """Pruned channels: a mask of a parameter times the signs."""
    mask = (OFFSET > 0).float()
    graph = exported(lambda x: torch.sign(x) * mask, X)
    (node,) = results(graph)
    steps = Levels().steps(node)
    assert isinstance(steps, Steps) and steps.values == THREE
    # Of such a channel -inf alone, which is greater than no threshold, is taken for a negative x.
    reconstructs(graph, node, steps, most=LARGEST)


def test_what_others_read_is_not_passed():
    graph = exported(lambda x: (torch.sign(x + OFFSET), x + OFFSET), X)
    steps = Levels().steps(results(graph)[0])
    assert str(steps.x.target) == "aten.add.Tensor"


NO_STAIRCASES = {
    "real": lambda x: x * 2,
    "not monotone": lambda x: torch.where((x < -1.0) | (x > 1.0), 1.0, -1.0),
    "seventeen values": lambda x: torch.round(torch.clamp(x, 0, 16)),
    "infinite": lambda x: torch.where(x >= 0, 1.0, -math.inf),
    # Few values of all but the largest numbers, which are numbers nevertheless.
    "wide steps": lambda x: torch.round(x / 1000),
    "wider steps of a channel": lambda x: torch.floor(x / (OFFSET.abs() * 30000)),
    "wide steps, bounded late": lambda x: torch.clamp(torch.round(x / 1000), 0, 40),
    "one number of the batch": lambda x: (x.max() > 0).float(),
}


def test_what_is_no_staircase():
    graph = exported(lambda x: tuple(function(x) for function in NO_STAIRCASES.values()), X)
    levels = Levels()
    for name, node in zip(NO_STAIRCASES, results(graph), strict=True):
        assert levels.steps(node) is None, name


def test_sixteen_values_are_the_most():
    graph = exported(lambda x: torch.round(torch.clamp(x, 0, 15)), X)
    steps = Levels().steps(results(graph)[0])
    assert steps.values == tuple(map(float, range(16)))
    # Halves are rounded to even numbers: 0.5 is 0, and 1.5 is 2.
    assert [float(t) for t in steps.thresholds] == [
        above(k - 0.5) if k % 2 else k - 0.5 for k in range(1, 16)
    ]
