"""A tensor with few values, as a function of one comparison or of several with constants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import fx

MOST = 16
"""Values of an activation of 4 bits, the most that is packed."""

_SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Steps:
    """A tensor equal to ``values[|{t : x <compare> t}|]``, where x is NaN to ``values[nan]``.

    Attributes:
        x: the compared tensor, float32, with the shape of the result.
        compare: "ge", "gt", "le" or "lt".
        thresholds: constants that broadcast to x, ascending; or one node that is computed.
        values: one more than thresholds; the value for each number of comparisons that hold.
        nan: how many comparisons count as held for NaN: those of the first thresholds. None where
            the tensor is NaN as well, or what no level is.
    """

    x: fx.Node
    compare: str
    thresholds: tuple[torch.Tensor | fx.Node, ...]
    values: tuple[float, ...]
    nan: int | None = 0

    @property
    def computed(self) -> bool:
        """Whether the threshold depends on the input."""
        return any(isinstance(threshold, fx.Node) for threshold in self.thresholds)

    def same_code(self, other: Steps) -> bool:
        """Whether both count the same comparisons."""
        if self.x is not other.x or self.compare != other.compare:
            return False
        if len(self.thresholds) != len(other.thresholds) or self.nan != other.nan:
            return False
        pairs = zip(self.thresholds, other.thresholds, strict=True)
        return all(
            a is b
            or (
                isinstance(a, torch.Tensor)
                and isinstance(b, torch.Tensor)
                and a.shape == b.shape
                and torch.equal(a, b)
            )
            for a, b in pairs
        )

    def with_values(self, values: tuple[float, ...]) -> Steps:
        """The same comparisons with other values; neighbours of one value become one level."""
        if self.computed or len(set(values)) == len(values):
            return replace(self, values=values)
        kept = [i for i in range(len(self.thresholds)) if values[i] != values[i + 1]]
        return replace(
            self,
            thresholds=tuple(self.thresholds[i] for i in kept),
            values=(values[0], *(values[i + 1] for i in kept)),
            nan=None if self.nan is None else sum(i < self.nan for i in kept),
        )

    def uniform(self) -> bool:
        """Whether all thresholds are single numbers, so that x may be moved about at will."""
        return all(isinstance(t, torch.Tensor) and t.numel() == 1 for t in self.thresholds)

    def without_subnormals(self) -> Steps:
        """``x >= 1.4e-45`` as ``x > 0``: some processors take the smallest numbers for 0.

        ``x >= 0`` beside it becomes ``x > -1.2e-38``, the normal number next to 0.
        """
        values = [t for t in self.thresholds if isinstance(t, torch.Tensor)]
        tiny = any(bool(((t != 0) & (t.abs() < _SMALLEST_NORMAL)).any()) for t in values)
        if self.compare != "ge" or not tiny:
            return self
        return replace(self, compare="gt", thresholds=tuple(map(_normal_below, values)))


def _normal_below(threshold: torch.Tensor) -> torch.Tensor:
    """The largest number below, no subnormal one."""
    below = torch.nextafter(threshold, torch.tensor(-torch.inf))
    tiny = (below < 0) & (below > -_SMALLEST_NORMAL)
    return torch.where(tiny, -_SMALLEST_NORMAL, below)
