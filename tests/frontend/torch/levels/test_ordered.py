"""float32 as ordered integers, and bisection that ends at the very number."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from tvm_insta.frontend.torch.levels.ordered import (
    LARGEST,
    distinct,
    first_reaching,
    from_order,
    to_order,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ENDS = torch.tensor([-LARGEST]), torch.tensor([LARGEST])


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_integers_are_ordered_as_the_numbers_are(values):
    x = torch.tensor(values, dtype=torch.float32)
    order = to_order(x)
    assert torch.equal(from_order(order), x + 0.0)  # -0.0 comes back as 0.0
    assert torch.equal(order[:, None] < order[None], x[:, None] < x[None])


@given(FINITE)
def test_neighbours_differ_by_one(value):
    x = torch.tensor([value])
    above = torch.nextafter(x, torch.tensor(math.inf))
    assert int(to_order(above) - to_order(x)) == 1


@given(st.lists(FINITE, min_size=1, max_size=5), st.booleans())
def test_each_threshold_is_found_exactly(values, rising):
    thresholds = torch.tensor(values)
    low, high = (end.expand(1, len(values)) for end in ENDS)
    sign = 1.0 if rising else -1.0

    def step(x):
        return sign * (x >= thresholds).float()

    found = first_reaching(step, sign, low, high, rising=rising)
    assert torch.equal(found, thresholds[None])


@given(FINITE)
def test_what_is_never_reached_is_infinity(value):
    x = first_reaching(lambda x: (x >= value).float(), 2.0, *ENDS, rising=True)
    assert torch.equal(x, torch.tensor([math.inf]))


def test_what_always_holds_is_the_lower_end():
    found = first_reaching(torch.ones_like, 1.0, *ENDS, rising=True)
    assert torch.equal(found, ENDS[0])


def test_distinct_numbers_are_ascending():
    assert distinct(torch.tensor([[2.0, -1.0], [2.0, 0.0]])).tolist() == [-1.0, 0.0, 2.0]
