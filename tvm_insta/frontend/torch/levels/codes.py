"""How the values of a level tensor become codes: integers that are packed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import fx

from tvm_insta.frontend.layers import Reason, WhyFloat
from tvm_insta.frontend.torch.levels.grid import EVEN, Grid, grid_of
from tvm_insta.frontend.torch.levels.steps import MOST, Steps

_NEGATED = {"ge": "lt", "gt": "le", "le": "gt", "lt": "ge"}
_NEVER = {"ge": torch.nan, "gt": torch.inf, "le": torch.nan, "lt": -torch.inf}
"""By comparison, a threshold for which it never holds: infinity is at least infinity."""


@dataclass(frozen=True)
class Codes:
    """A level tensor as ``value_base + value_step * code``, with value_step > 0.

    Attributes:
        compare: which comparisons the code counts.
        nan: the code of NaN; 0 where the levels are NaN too, which no code says.
        thresholds: ``2**bits - 1`` of them; those beyond the last value never hold.
        bits: of the code.
        value_base: the value of code 0.
        value_step: from one value to the next.
        bipolar: the packed integers are ``2 * code - (2**bits - 1)``, else the codes themselves.
        base: what is added to ``factor`` times the packed integers.
        factor: what the packed integers are multiplied by.
    """

    compare: str
    nan: int
    thresholds: tuple[torch.Tensor | fx.Node, ...]
    bits: int
    value_base: float
    value_step: float
    bipolar: bool
    base: float
    factor: float

    @property
    def plain(self) -> bool:
        """Whether the values are a multiple of the packed integers."""
        return self.base == 0.0

    @property
    def integers(self) -> tuple[float, float]:
        """Base and step of the packed integers."""
        return (-(2.0**self.bits - 1), 2.0) if self.bipolar else (0.0, 1.0)


def codes_of(steps: Steps) -> Codes | WhyFloat:
    """The codes of a level tensor, or why it has none."""
    values, compare, nan = steps.values, steps.compare, steps.nan
    count = len(values)
    if count > MOST:
        return WhyFloat(
            Reason.MANY_LEVELS,
            f"its input has {count} levels, but at most {MOST} are packed",
        )
    if values[0] > values[-1]:
        values, compare = values[::-1], _NEGATED[compare]
        nan = None if nan is None else count - 1 - nan
    grid = grid_of(values)
    if grid is None:
        listed = ", ".join(f"{value:g}" for value in values)
        return WhyFloat(
            Reason.UNEVEN_LEVELS,
            f"its input takes the values {listed}, which are not evenly spaced, nor all on an "
            f"even grid of {MOST} places",
        )
    step, nan = grid.step, None if nan is None else grid.places[nan]
    bits = (grid.count - 1).bit_length()
    missing = 2**bits - grid.count
    never = torch.tensor(_NEVER[compare])
    thresholds = (*_over_gaps(steps.thresholds, compare, grid), *[never] * missing)
    middle = (values[0] + values[-1]) / 2
    if missing == 0 and values[0] != 0.0:
        base, factor = (0.0 if abs(middle) <= EVEN * step else middle), step / 2
        return Codes(compare, nan or 0, thresholds, bits, values[0], step, True, base, factor)
    return Codes(compare, nan or 0, thresholds, bits, values[0], step, False, values[0], step)


def _over_gaps(
    thresholds: tuple[torch.Tensor | fx.Node, ...], compare: str, grid: Grid
) -> tuple[torch.Tensor | fx.Node, ...]:
    """The thresholds, each as often as the code rises there: by 2 from 1 to 3 of 0, 1 and 3."""
    rises = [after - before for before, after in itertools.pairwise(grid.places)]
    if compare in ("le", "lt"):  # of the largest number only the last threshold is not passed
        rises.reverse()
    pairs = zip(thresholds, rises, strict=True)
    return tuple(threshold for threshold, rise in pairs for _ in range(rise))
