"""Numbers next to which the elements of a tensor lie, rounded by whoever computes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

CONTINUOUS = frozenset(
    f"aten.{name}"
    for name in "add sub rsub mul neg relu clamp clamp_min clamp_max hardtanh abs _to_copy".split()
)
"""Operators whose result moves by a rounding or two where an operand does."""

_SAME = 1e-6
"""Values this near, relative to the largest, are one: ``q - sign(q) * 2 / 3`` of four levels has
two values, each of them in two roundings."""

_NEAR = 1e-5
"""They are also this near relative to themselves, or to 1. Beside a level of -1e9, which masks, +1
and -1 are near relative to the largest, and are no roundings of one number."""

_CLEAR = 1e-3
"""Smallest distance of two numbers, relative to the largest, that rounding cannot bridge: a sum of
15 numbers is rounded by a hundred thousandth of it at most, the operators behind it by less."""


def apart(values: Sequence[float] | None) -> tuple[float, ...] | None:
    """The values, ascending, those that rounding has moved apart taken as one."""
    if values is None:
        return None
    largest = max(abs(value) for value in values)
    kept = [values[0]]
    for value in values[1:]:
        gap, size = value - kept[-1], max(abs(value), abs(kept[-1]))
        if gap > _SAME * largest or gap > _NEAR * max(size, 1.0):
            kept.append(value)
    return tuple(kept)


def clear(values: Sequence[float] | None) -> tuple[float, ...] | None:
    """The values, None where two are so near that rounding might take one for the other."""
    found = apart(values)
    if found is None:
        return None
    largest = max(abs(value) for value in found)
    gaps = [above - below for below, above in itertools.pairwise(found)]
    return found if min(gaps, default=largest) >= _CLEAR * largest else None
