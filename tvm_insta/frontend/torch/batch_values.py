"""The values that the numbers in an exported graph have for several sizes of the batch."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.batch_trace import is_of_batch, of_batch

_CLOSE = 1e-6
"""Relative: the numbers are float64 or float32, and computed in another order for each batch."""

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


class BatchValues:
    """Values by node and by batch.

    Args:
        graph: decomposed, exported with the first of the batches.
        batches: for which the values are wanted, first that of `graph` where there are others.
        others: graphs of the same module exported with the other batches; empty where forward left
            all numbers to symbols, so that one graph has them all.
        line: of the user's, where a number was made of the batch's size; for messages.

    Attributes:
        of: numbers and tensors of one element, one for each batch, by the node that computes them.

    Raises:
        ImportModelError: the graphs differ in more than numbers.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        batches: Sequence[int],
        others: Sequence[fx.GraphModule],
        line: str,
    ) -> None:
        self.batches, self.line = batches, line
        self.of: dict[fx.Node, tuple[Any, ...]] = {}
        self._leaves: dict[fx.Node, list[list[Any]]] = {}
        graphs = [graph, *others] if others else [graph] * len(batches)
        nodes = [list(each.graph.nodes) for each in graphs]
        if len({len(each) for each in nodes}) > 1:
            raise self._fixed()
        numbers = [{node: number for number, node in enumerate(each)} for each in nodes]
        for row in zip(*nodes, strict=True):
            self._compare(row, numbers)
            values = self._values(row)
            if values is not None:
                self.of[row[0]] = values

    def differs(self, node: Any) -> bool:
        """Whether a node is a number, and another one for each batch."""
        return node in self.of and not alike(self.of[node])

    def made_of_sizes(self, node: fx.Node) -> bool:
        """Whether a number that differs is among those that a number is computed from."""
        return any(self.differs(each) or self.made_of_sizes(each) for each in node.all_input_nodes)

    def literals(self, node: fx.Node, position: int) -> tuple[Any, ...]:
        """A number among the positional arguments of a call, for each batch."""
        at = len(_pytree.tree_leaves(node.args[:position]))
        return tuple(leaves[at] for leaves in self._leaves[node])

    def literals_differ(self, node: fx.Node) -> bool:
        """Whether Python put another number into a call for each batch."""
        columns = zip(*self._leaves.get(node, ()), strict=True)
        return any(not isinstance(each[0], fx.Node) and not alike(each) for each in columns)

    def _compare(self, row: Sequence[fx.Node], numbers: Sequence[dict[fx.Node, int]]) -> None:
        """See that the graphs have the same node, numbers excepted."""
        first = row[0]
        if any(each.op != first.op or each.target != first.target for each in row):
            raise self._fixed()
        flat = [_pytree.tree_flatten((each.args, each.kwargs)) for each in row]
        if any(spec != flat[0][1] for _, spec in flat):
            raise self._fixed()
        self._leaves[first] = [leaves for leaves, _ in flat]
        for column in zip(*self._leaves[first], strict=True):
            if all(isinstance(each, fx.Node) for each in column):
                if len({own[each] for own, each in zip(numbers, column, strict=True)}) > 1:
                    raise self._fixed()
            elif not alike(column) and not all(isinstance(each, (int, float)) for each in column):
                raise self._fixed()

    def _values(self, row: Sequence[fx.Node]) -> tuple[Any, ...] | None:
        first = row[0]
        if first.op == "get_attr":
            found = [operator.attrgetter(str(each.target))(_module(each)) for each in row]
            single = all(isinstance(each, torch.Tensor) and each.numel() == 1 for each in found)
            return tuple(each.detach() for each in found) if single else None
        made: Any = first.meta.get("val")
        symbol = isinstance(made, _SYMBOLS)
        if first.op != "call_function" or not (symbol or _single(made)):
            return None
        if all(source in self.of for source in first.all_input_nodes) and not _random(first):
            return tuple(self._executed(each, first, k) for k, each in enumerate(row))
        if symbol and not isinstance(made, torch.SymBool) and is_of_batch(made):
            make = int if isinstance(made, torch.SymInt) else float
            return tuple(make(of_batch(made.node.expr, batch)) for batch in self.batches)
        return None

    def _executed(self, node: fx.Node, first: fx.Node, k: int) -> Any:
        known = {
            own: self.of[source][k]
            for own, source in zip(node.all_input_nodes, first.all_input_nodes, strict=True)
        }
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _fixed(self) -> ImportModelError:
        return ImportModelError(
            f"forward fixes the size of the batch{self.line}: write x.shape[0] or -1 where a "
            "number stands for the batch, or compile with max_batch=1"
        )


def alike(values: Sequence[Any]) -> bool:
    """Whether numbers, tensors of one element, or other constants are equal but for rounding."""
    if all(isinstance(each, torch.Tensor) for each in values):
        return alike([each.item() for each in values])
    first = values[0]
    if all(isinstance(each, float) for each in values):
        return all(
            repr(each) == repr(first) or abs(each - first) <= _CLOSE * abs(first) for each in values
        )
    return all(type(each) is type(first) and each == first for each in values)


def _single(made: Any) -> bool:
    return isinstance(made, torch.Tensor) and not made.is_complex() and _one(made.shape)


def _one(shape: Sequence[Any]) -> bool:
    return all(isinstance(size, int) and size == 1 for size in shape)


def _random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _module(node: fx.Node) -> Any:
    return node.graph.owning_module
