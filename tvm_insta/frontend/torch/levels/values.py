"""Which tensors of a graph have few values, and how each is had from comparisons.

`Levels.steps` gives a tensor as a function of comparisons of one tensor, where it is one.
`Levels.values` gives the numbers that occur, for many more tensors: whatever boolean condition
chose between +1 and -1, however levels were added, concatenated or padded. Such a tensor can be
compared with the middles between its own values, which is exact too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, constant, is_tensor, shape_of
from tvm_insta.frontend.torch.levels.elementwise import (
    boundaries,
    evaluate,
    is_elementwise,
    same_shape,
    variable_operands,
)
from tvm_insta.frontend.torch.levels.lattice import Lattices
from tvm_insta.frontend.torch.levels.linear import straight_through
from tvm_insta.frontend.torch.levels.means import exact_values, means_of, near_values
from tvm_insta.frontend.torch.levels.moves import moved_tensors, padding_value
from tvm_insta.frontend.torch.levels.nearby import CONTINUOUS, apart, clear
from tvm_insta.frontend.torch.levels.ordered import distinct
from tvm_insta.frontend.torch.levels.ranges import Range
from tvm_insta.frontend.torch.levels.staircase import chains, staircase
from tvm_insta.frontend.torch.levels.steps import MOST, Steps

_COMPARE = {"aten.ge": "ge", "aten.gt": "gt", "aten.le": "le", "aten.lt": "lt"}
_MIRRORED = {"ge": "le", "gt": "lt", "le": "ge", "lt": "gt"}
_SEES_MINUS_ZERO = frozenset({"aten.copysign", "aten.signbit"})
"""Operators of which a level 0 is not enough to know: the sign of that 0 counts."""
_MOST_COMBINATIONS = 4096
_LARGEST = 1 << 22

ValuesOf = Callable[[fx.Node], tuple[float, ...] | None]


class Levels:
    """What is known of the tensors of one graph; computed when asked, and kept."""

    def __init__(self) -> None:
        self.ranges = Range()
        self.lattices = Lattices()
        self._steps: dict[fx.Node, Steps | None] = {}
        self._values: dict[fx.Node, tuple[float, ...] | None] = {}
        self._nearby: dict[fx.Node, tuple[float, ...] | None] = {}

    def steps(self, node: fx.Node) -> Steps | None:
        """The node as a function of comparisons of one tensor, None where it is none."""
        if node not in self._steps:
            self._steps[node] = None
            self._steps[node] = self._find_steps(node)
        return self._steps[node]

    def never_nan(self, node: fx.Node) -> bool:
        """Whether no element can be NaN: sums of levels are numbers."""
        return self.lattices.of(node) is not None

    def values(self, node: fx.Node) -> tuple[float, ...] | None:
        """All values that elements of the node may have, ascending; None where not known to be few.

        More may be listed than occur.
        """
        if node not in self._values:
            self._values[node] = None
            self._values[node] = self._find_values(node)
        return self._values[node]

    def nearby(self, node: fx.Node) -> tuple[float, ...] | None:
        """Numbers, ascending, next to which all elements of the node lie; None where not known.

        They are those of `values`, and numbers that PyTorch and the artefact round on their own,
        as the mean of three thirds. Each element is far nearer to its number than to any other.
        """
        if node not in self._nearby:
            self._nearby[node] = None
            self._nearby[node] = apart(self.values(node)) or clear(self._find_nearby(node))
        return self._nearby[node]

    # -- functions of comparisons ----------------------------------------------------------------

    def _find_steps(self, node: fx.Node) -> Steps | None:
        if not is_tensor(node) or not is_elementwise(node):
            return None
        hard = straight_through(node, self)
        if hard is not None:
            return self.steps(hard)
        found = self._computed_threshold(node) or self._table(node)
        return found or staircase(node, self.ranges, self.lattices)

    def _computed_threshold(self, node: fx.Node) -> Steps | None:
        """A comparison with a threshold that the network computes for this instance."""
        compare = _COMPARE.get(base_name(node))
        operands = variable_operands(node)
        if compare is None or len(operands) != 2:
            return None
        left, right = operands if node.args[0] is operands[0] else reversed(operands)
        if any(each.meta["val"].dtype != torch.float32 for each in operands):
            return None
        if not same_shape(left, node) or _size(left) < _size(right):
            left, right, compare = right, left, _MIRRORED[compare]
        if not same_shape(left, node):
            return None
        return Steps(left, compare, (right,), (0.0, 1.0))

    def _table(self, node: fx.Node) -> Steps | None:
        """An element-wise function of levels of one and the same code."""
        operands = variable_operands(node)
        known = [self.steps(operand) for operand in operands]
        first = known[0] if known else None
        if first is None or not same_shape(operands[0], node):
            return None
        if base_name(node) in _SEES_MINUS_ZERO and any(
            steps and 0.0 in steps.values for steps in known
        ):
            return None
        for steps in known[1:]:
            if steps is None or not steps.same_code(first):
                return None
        if not all(_is_number(each) for each in node.all_input_nodes if each not in operands):
            return None
        tables = {
            operand: _column(steps.values, operand)
            for operand, steps in zip(operands, known, strict=True)
            if steps is not None
        }
        result = evaluate(node, tables).to(torch.float32).flatten()
        values = result.expand(len(first.values)).tolist()
        if not all(map(math.isfinite, values)) or not _monotone(values):
            return None
        found = first.with_values(tuple(values))
        if first.nan is None:  # where the levels are NaN, this tensor may be a number
            nans = {operand: _column((math.nan,), operand) for operand in operands}
            value = float(evaluate(node, nans))
            found = replace(found, nan=found.values.index(value) if value in values else None)
        return found

    # -- values ----------------------------------------------------------------------------------

    def _find_values(self, node: fx.Node) -> tuple[float, ...] | None:
        value = constant(node)
        if value is not None:
            return _values_of_constant(value)
        if base_name(node) in ("aten.full", "aten.full_like"):
            number = node.args[1]
            return _set([number]) if isinstance(number, (int, float)) else None
        return self._computed(node)

    def _computed(self, node: fx.Node) -> tuple[float, ...] | None:
        steps = self.steps(node)
        if steps is not None:
            return _set(steps.values)
        if is_tensor(node) and node.meta["val"].dtype == torch.bool:
            return (0.0, 1.0)
        if is_elementwise(node):
            hard = straight_through(node, self)
            return self.values(hard) if hard is not None else self._combined(node)
        means = means_of(node)
        if means is None:
            return _positions(node) or self._moved(node, self.values)
        summed = self.values(means.source)
        return _set_or_none(None if summed is None else exact_values(means, summed))

    def _find_nearby(self, node: fx.Node) -> tuple[float, ...] | None:
        means = means_of(node)
        if means is not None:
            summed = self.nearby(means.source)
            return _set_or_none(None if summed is None else near_values(means, summed))
        if base_name(node) in CONTINUOUS:
            return self._combinations(node, self.nearby)
        return None if is_elementwise(node) else self._moved(node, self.nearby)

    def _moved(self, node: fx.Node, values_of: ValuesOf) -> tuple[float, ...] | None:
        """The values of tensors whose elements were moved, and what was padded."""
        moved = moved_tensors(node)
        if not moved:
            return None
        found: list[float] = []
        for source in moved:
            values = values_of(source)
            if values is None:
                return None
            found += values
        padding = padding_value(node)
        return _set(found if padding is None else [*found, padding])

    def _combined(self, node: fx.Node) -> tuple[float, ...] | None:
        """What an element-wise operator makes of all combinations of its operands' values."""
        if base_name(node) == "aten.where":
            return self._chosen(node)
        if base_name(node) == "aten.copysign":
            magnitudes = self._operand_values(node.args[0])
            return None if magnitudes is None else _set([*magnitudes, *[-m for m in magnitudes]])
        together = self._of_one_tensor(node)
        if together is None:
            together = _of_mask(node)
        if together is not None:
            return together
        return self._combinations(node, self.values)

    def _combinations(self, node: fx.Node, values_of: ValuesOf) -> tuple[float, ...] | None:
        operands = [each for each in node.all_input_nodes if is_tensor(each)]
        sets = [values_of(operand) for operand in operands]
        if not sets or boundaries(node) is not None or any(each is None for each in sets):
            return None
        if math.prod(len(each or ()) for each in sets) > _MOST_COMBINATIONS:
            return None
        rows = list(itertools.product(*[each or () for each in sets]))
        columns = {
            operand: _column(tuple(row[at] for row in rows), operand)
            for at, operand in enumerate(operands)
        }
        return _set(evaluate(node, columns).to(torch.float32).flatten().tolist())

    def _chosen(self, node: fx.Node) -> tuple[float, ...] | None:
        """Either of the values that a condition chooses between."""
        choices = [self._operand_values(arg) for arg in node.args[1:]]
        if any(choice is None for choice in choices):
            return None
        return _set([value for choice in choices for value in choice or ()])

    def _of_one_tensor(self, node: fx.Node) -> tuple[float, ...] | None:
        """What a chain makes of the values of the nearest tensor of few values it is made of.

        The operands of ``q - sign(q)`` are no combinations of all their values.
        """
        for chain in chains(node):
            values = self.values(chain.root)
            if values is None:
                continue
            images, *rest = chain.constants_shape()
            if images != 1:
                return None
            column = _column(values, chain.root).reshape(-1, *[1] * len(rest))
            return _set(chain(column).flatten().tolist())
        return None

    def _operand_values(self, arg: Any) -> tuple[float, ...] | None:
        if isinstance(arg, fx.Node):
            return self.values(arg)
        return (float(arg),)


def _of_mask(node: fx.Node) -> tuple[float, ...] | None:
    """What a mask leaves of integers: 0 and 1 of ``(x >> 3) & 1``, a bit of a byte."""
    if base_name(node) not in ("aten.bitwise_and", "aten.__and__"):
        return None
    mask = node.args[1]
    if not isinstance(mask, int) or not 0 <= mask < MOST:
        return None
    return _set(value & mask for value in range(MOST))


def _positions(node: fx.Node) -> tuple[float, ...] | None:
    """Where the largest or smallest of a few elements lies: one number for each of them."""
    given: Any = node.args
    if base_name(node) not in ("aten.argmax", "aten.argmin") or len(given) < 2:
        return None
    count = None if given[1] is None else shape_of(given[0])[given[1]]
    return _set(range(count)) if isinstance(count, int) and count <= MOST else None


def _column(values: tuple[float, ...], like: fx.Node) -> torch.Tensor:
    """Values as a tensor of a node's element type."""
    return torch.tensor(values, dtype=torch.float32).to(like.meta["val"].dtype)


def _values_of_constant(value: torch.Tensor) -> tuple[float, ...] | None:
    """The values of a constant; None where it is too large to look at, or they are too many."""
    if value.numel() > _LARGEST or value.is_complex():
        return None
    return _set(distinct(value.to(torch.float32)).tolist())


def _set(values: Any) -> tuple[float, ...] | None:
    found = sorted({float(value) + 0.0 for value in values})
    if not found or len(found) > MOST or not all(map(math.isfinite, found)):
        return None
    return tuple(found)


def _set_or_none(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else _set(values)


def _monotone(values: list[float]) -> bool:
    pairs = list(itertools.pairwise(values))
    return all(a <= b for a, b in pairs) or all(a >= b for a, b in pairs)


def _is_number(node: fx.Node) -> bool:
    value = constant(node)
    return value is not None and value.numel() == 1


def _size(node: fx.Node) -> float:
    """Elements of a tensor, a symbolic batch counting as large as it may be."""
    return math.prod(dim if isinstance(dim, int) else 1 << 20 for dim in shape_of(node))
