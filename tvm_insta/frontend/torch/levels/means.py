"""Means and sums of a few elements of a tensor of few values: pools, channels, frames.

The mean of n values of an even grid of L places has ``n * (L - 1) + 1`` values on a finer grid:
that of 2x2 signs has five. A float32 sum of them is exact, in any order, where no partial sum needs
more than 24 bits, and so is its quotient by a power of two. Other means, of thirds or of 3x3
elements, are rounded, and not alike by everybody; they lie next to the numbers of their grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, is_tensor, shape_of
from tvm_insta.frontend.torch.levels.grid import Grid, grid_of
from tvm_insta.frontend.torch.levels.nearby import apart

_POOLS = {"aten.avg_pool2d": 2, "aten.avg_pool3d": 3}
_ADAPTIVE = {"aten._adaptive_avg_pool2d": 2, "aten._adaptive_avg_pool3d": 3}
_REDUCTIONS = frozenset({"aten.mean", "aten.sum"})
_MANTISSA = 1 << 24
_MOST_ELEMENTS = 1024
"""Of a mean whose values are counted; those of longer ones are not few, but where they are one."""


@dataclass(frozen=True)
class Means:
    """A tensor whose elements are sums of elements of another one, each divided by a number.

    Attributes:
        source: whose elements are summed.
        windows: how many elements are summed, and the divisor; each pair that occurs.
        divided: whether it is a mean, no sum.
    """

    source: fx.Node
    windows: frozenset[tuple[int, int]]
    divided: bool

    @property
    def most(self) -> int:
        """Elements of the largest window."""
        return max(count for count, _ in self.windows)


def means_of(node: fx.Node) -> Means | None:
    """The means or sums that a node computes of one tensor, None for any other node."""
    name, source = base_name(node), node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or not is_tensor(source) or not is_tensor(node):
        return None
    if name in _REDUCTIONS:
        windows = _reduced(node, source, divided=name == "aten.mean")
    elif name in _POOLS:
        windows = _pooled(node, source, _POOLS[name])
    elif name in _ADAPTIVE:
        windows = _adapted(node, source, _ADAPTIVE[name])
    else:
        return None
    return None if windows is None else Means(source, windows, name != "aten.sum")


def _reduced(node: fx.Node, source: fx.Node, *, divided: bool) -> frozenset[tuple[int, int]] | None:
    given: Any = node.args
    dims = given[1] if len(given) > 1 else None
    wide = node.meta["val"].dtype in (torch.float32, torch.int64)
    if not dims or not wide or "out" in node.kwargs:
        return None
    dims = [dims] if isinstance(dims, int) else dims
    sizes = [shape_of(source)[dim] for dim in dims]
    if not all(isinstance(size, int) for size in sizes):  # the batch
        return None
    count = math.prod(sizes)
    return frozenset({(count, count if divided else 1)})


def _pooled(node: fx.Node, source: fx.Node, space: int) -> frozenset[tuple[int, int]] | None:
    """The windows as PyTorch takes them: it pools an image of ones."""
    sizes = shape_of(source)[-space:]
    if not all(isinstance(size, int) for size in sizes) or node.kwargs:
        return None
    pool = F.avg_pool2d if space == 2 else F.avg_pool3d
    kernel, stride, padding, ceil_mode, include, divisor = _filled(
        node.args[1:], (None, None, 0, False, True, None)
    )
    ones = torch.ones(1, 1, *sizes, dtype=torch.float64)
    geometry = (kernel, stride or None, padding, ceil_mode)
    counts = pool(ones, *geometry, include, 1)
    means = pool(ones, *geometry, include, divisor)
    divisors = (counts / means).round()  # no window lies in the padding alone
    pairs = zip(counts.flatten().tolist(), divisors.flatten().tolist(), strict=True)
    return frozenset((int(count), int(divisor)) for count, divisor in pairs)


def _filled(given: Sequence[Any], defaults: Sequence[Any]) -> tuple[Any, ...]:
    return (*given, *defaults[len(given) :])


def _adapted(node: fx.Node, source: fx.Node, space: int) -> frozenset[tuple[int, int]] | None:
    """Output i of m takes input ``floor(i * n / m)`` up to ``ceil((i + 1) * n / m)``."""
    sizes: Any = shape_of(source)[-space:]
    outs: Any = shape_of(node)[-space:]
    if not all(isinstance(size, int) for size in (*sizes, *outs)):
        return None
    extents = [
        {-(-(i + 1) * n // m) - i * n // m for i in range(m)}
        for n, m in zip(sizes, outs, strict=True)
    ]
    counts = {math.prod(each) for each in itertools.product(*extents)}
    return frozenset((count, count) for count in counts)


def exact_values(means: Means, values: Sequence[float]) -> list[float] | None:
    """All values of means of tensors of these values; None where one of them may be rounded.

    Args:
        means: what is summed and divided.
        values: of the tensor whose elements are summed, ascending.
    """
    grid = grid_of(values)
    if grid is None or not _holds(grid, values):
        return None
    unit = Fraction(1, math.lcm(*(Fraction(value).denominator for value in values)))
    largest = max(abs(Fraction(value)) for value in values)
    if means.most * largest > _MANTISSA * unit:
        return None
    if any(divisor & (divisor - 1) for _, divisor in means.windows):
        return None
    found = _all(means, grid)
    return None if found is None else sorted({float(value) for value in found})


def _holds(grid: Grid, values: Sequence[float]) -> bool:
    """Whether values are those of the grid without any rounding."""
    base, step = Fraction(grid.base), Fraction(grid.step)
    return all(
        Fraction(value) == base + step * place
        for value, place in zip(values, grid.places, strict=True)
    )


def near_values(means: Means, values: Sequence[float]) -> tuple[float, ...] | None:
    """Numbers next to which all means of tensors of these values lie; None where not known.

    Those of windows of two sizes, of rounded values, may be one.

    Args:
        means: what is summed and divided.
        values: next to which the summed elements lie, ascending.
    """
    grid = grid_of(values)
    found = None if grid is None else _all(means, grid)
    return None if found is None else apart(sorted(float(value) for value in found))


def _all(means: Means, grid: Grid) -> set[Fraction] | None:
    """Every mean of numbers of a grid; None where they are too many to count."""
    if means.most > _MOST_ELEMENTS:
        return None
    base, step = Fraction(grid.base), Fraction(grid.step)
    found: set[Fraction] = set()
    for count, divisor in means.windows:
        for place in _sums(grid.places, count):
            found.add((count * base + place * step) / divisor)
    return found


def _sums(places: Sequence[int], count: int) -> list[int]:
    """All sums of `count` of the places, each as a bit of a number while they are found."""
    reached = 1
    for _ in range(count):
        shifted = 0
        for place in places:
            shifted |= reached << place
        reached = shifted
    return [at for at in range(reached.bit_length()) if reached >> at & 1]
