"""Values that lie at places of an even grid, with or without gaps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_insta.frontend.torch.levels.steps import MOST

EVEN = 1e-5
"""Largest distance of a value from the grid, relative to its step: scales such as 1 / 3 are rounded
to float32."""


@dataclass(frozen=True)
class Grid:
    """Values ``base + step * place``.

    Attributes:
        base: the smallest value.
        step: from one place to the next, above 0; 0 where there is one value only.
        places: of the values, ascending from 0.
    """

    base: float
    step: float
    places: tuple[int, ...]

    @property
    def count(self) -> int:
        """Places from the smallest value to the largest, those in gaps included."""
        return self.places[-1] + 1


def grid_of(values: Sequence[float]) -> Grid | None:
    """The widest grid of at most `MOST` places on which ascending values lie; None for no grid."""
    if len(values) == 1:
        return Grid(values[0], 0.0, (0,))
    for count in range(len(values), MOST + 1):
        step = (values[-1] - values[0]) / (count - 1)
        places = tuple(round((value - values[0]) / step) for value in values)
        apart = all(a < b for a, b in itertools.pairwise(places))
        if apart and all(
            abs(value - values[0] - step * place) <= EVEN * step
            for value, place in zip(values, places, strict=True)
        ):
            return Grid(values[0], step, places)
    return None
