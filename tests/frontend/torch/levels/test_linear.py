"""Sums in which smooth terms cancel are what is left, however many terms there are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.torch.graphs import exported, results
from tvm_insta.frontend.torch.graph import base_name
from tvm_insta.frontend.torch.levels.linear import straight_through
from tvm_insta.frontend.torch.levels.values import Levels

X = torch.zeros(2, 3, 2, 2)
ESTIMATORS = {
    "hard first": lambda hard, soft: (hard - soft).detach() + soft,
    "soft first": lambda hard, soft: soft + (hard - soft).detach(),
    "three": lambda hard, soft: hard.detach() - soft.detach() + soft,
    "less the difference": lambda hard, soft: soft - (soft - hard),
    "twice": lambda hard, soft: soft + ((hard - soft) + (soft - soft * 2)) + (soft * 2 - soft),
}
OTHERS = {
    "nothing cancels": lambda hard, soft: hard + soft,
    "two of it": lambda hard, soft: (hard - soft) + (hard + soft),
    "its negative": lambda hard, soft: soft - (hard + soft),
    "another is left": lambda hard, soft: (hard - soft) + (soft + torch.cos(hard)),
    "nothing is left": lambda hard, soft: (hard - soft) - (hard - soft),
}


def smooth(x, signs, balanced):
    """A sum of as many different terms as there are signs."""
    terms = [torch.sin((2 * at + 1) * x) / (2 * at + 1) for at in range(len(signs))]
    for sign in signs[1:]:
        first, second, *rest = terms
        both = first + second if sign else first - second
        terms = [*rest, both] if balanced else [both, *rest]
    return terms[0]


@settings(max_examples=40)
@given(
    signs=st.lists(st.booleans(), min_size=1, max_size=14),
    balanced=st.booleans(),
    name=st.sampled_from(list(ESTIMATORS)),
)
def test_the_smooth_function_may_be_a_sum(signs, balanced, name):
    graph = exported(lambda x: ESTIMATORS[name](torch.sign(x), smooth(x, signs, balanced)), X)
    (node,) = results(graph)
    left = straight_through(node, Levels())
    assert left is not None
    assert base_name(left) == "aten.sign"


@pytest.mark.parametrize("terms", [1, 9])
@pytest.mark.parametrize("name", OTHERS)
def test_other_sums_are_sums(name, terms):
    graph = exported(lambda x: OTHERS[name](torch.sign(x), smooth(x, [True] * terms, True)), X)
    assert straight_through(results(graph)[0], Levels()) is None
