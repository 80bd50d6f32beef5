"""Sorting, by counting: the place of an element is how many others come before it.

TVM sorts by calls into a library of its own, which the plain-C form does not have. A few thousand
comparisons that depend on nothing run in vectors, and what is sorted in a network is short.

Equal elements keep their order, as in ``sort(stable=True)``; NaN is larger than all numbers. Which
of equal elements `topk` names first PyTorch does not say: here it is the first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.operators.converter import bind
from tvm_insta.frontend.torch.operators.insert import Inserter, replace

_aten = torch.ops.aten

LONGEST = 4096
"""Elements that are sorted: 16 million comparisons."""


def _sort(node: fx.Node) -> bool:
    bound = bind(node)
    size = bound.value("self").shape
    if not size:
        return False
    count = size[int(bound["dim"])]
    return _ordered(node, bound.arguments, count, bool(bound["descending"]))


def _top(node: fx.Node) -> bool:
    bound = bind(node)
    if not bound.value("self").shape:
        return False
    return _ordered(node, bound.arguments, int(bound["k"]), bool(bound["largest"]))


def _ordered(node: fx.Node, given: dict[str, Any], count: Any, descending: bool) -> bool:
    """Replace the values and the indices of a node by computed ones."""
    x = given["self"]
    value = x.meta["val"]
    dim = int(given["dim"]) % value.ndim
    size = value.shape[dim]
    if not isinstance(size, int) or size > LONGEST or value.dtype == torch.bool:
        return False
    insert = Inserter(node)
    rows = insert.call(_aten.transpose.int, x, dim, -1)
    order = _order(insert, rows, int(count), descending)
    results = [insert.call(_aten.gather.default, rows, value.ndim - 1, order), order]
    results = [insert.call(_aten.transpose.int, each, dim, -1) for each in results]
    for user in list(node.users):
        replace(user, results[int(user.args[1])])  # type: ignore[arg-type]
    return True


def _order(insert: Inserter, x: fx.Node, count: int, descending: bool) -> fx.Node:
    """``[..., count]`` int64: which element of the last dimension stands at each place."""
    size = int(x.meta["val"].shape[-1])
    mine, other = (insert.call(_aten.unsqueeze.default, x, axis) for axis in (-1, -2))
    if not descending:
        mine, other = other, mine
    # [..., i, j]: whether j must come before i, and whether i must come before j.
    before, behind = _larger(insert, other, mine), _larger(insert, mine, other)
    earlier = torch.arange(size) < torch.arange(size).unsqueeze(1)
    stays = insert.call(_aten.logical_not.default, behind)
    counted = insert.call(_aten.where.self, insert.constant(earlier, "earlier"), stays, before)
    place = insert.call(_aten.sum.dim_IntList, counted, [-1])  # [..., i]
    places = insert.constant(torch.arange(count).unsqueeze(1), "places")
    here = insert.call(_aten.eq.Tensor, insert.call(_aten.unsqueeze.default, place, -2), places)
    numbers, nothing = torch.arange(size), torch.zeros((), dtype=torch.int64)
    chosen = insert.call(
        _aten.where.self,
        here,
        insert.constant(numbers, "numbers"),
        insert.constant(nothing, "nothing"),
    )
    return insert.call(_aten.sum.dim_IntList, chosen, [-1])


def _larger(insert: Inserter, a: fx.Node, b: fx.Node) -> fx.Node:
    """Whether a is larger than b; NaN is larger than every number."""
    larger = insert.call(_aten.gt.Tensor, a, b)
    if not a.meta["val"].is_floating_point():
        return larger
    nan = insert.call(_aten.isnan.default, a)
    number = insert.call(_aten.logical_not.default, insert.call(_aten.isnan.default, b))
    return insert.call(
        _aten.logical_or.default, larger, insert.call(_aten.logical_and.default, nan, number)
    )


ORDERING: dict[str, Callable[[fx.Node], bool]] = {
    "aten.sort.default": _sort,
    "aten.sort.stable": _sort,
    "aten.topk.default": _top,
}
