"""Assignments under a mask (``y[x >= 0] = 1``) as choices between two tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import SOURCE, base_name, call, is_tensor, shape_of
from tvm_insta.frontend.torch.levels.elementwise import boundaries, is_elementwise

_aten = torch.ops.aten


def masked_assignment(node: fx.Node) -> bool:
    """``index_put(y, [mask], value)`` -> ``where(mask, value, y)``.

    The mask covers all dimensions of y or the first ones. The value is a number, a tensor of the
    dimensions that the mask does not cover, or what element-wise operators make of elements under
    the same mask: ``y[mask] = y[mask] + 1`` is ``where(mask, y + 1, y)``. Elements that the mask
    does not choose are computed and not taken.

    Returns:
        Whether it was rewritten: the n-th element under a mask has no place of its own.
    """
    target, indices, value, *rest = node.args
    mask = _mask(target, indices)
    if any(rest) or mask is None or not is_tensor(value):
        return False
    assert isinstance(target, fx.Node) and isinstance(value, fx.Node)
    whole = _whole(node, value, target, mask)
    if whole is None:
        return False
    source = node.meta.get(SOURCE, "")
    covering = _covering(node, mask, len(shape_of(target)))
    chosen = call(node, _aten.where.self, (covering, whole, target), source=source)
    node.replace_all_uses_with(chosen)
    node.graph.erase_node(node)
    return True


def _mask(target: Any, indices: Any) -> fx.Node | None:
    """The one boolean index of a tensor, if it covers its first dimensions."""
    if not is_tensor(target) or not isinstance(indices, (list, tuple)) or len(indices) != 1:
        return None
    (mask,) = indices
    if not is_tensor(mask) or mask.meta["val"].dtype != torch.bool:
        return None
    assert isinstance(mask, fx.Node)
    covered = shape_of(mask)
    return mask if covered and shape_of(target)[: len(covered)] == covered else None


def _covering(before: fx.Node, mask: fx.Node, rank: int) -> fx.Node:
    """The mask with a dimension of 1 for each one that it does not cover."""
    for _ in range(rank - len(shape_of(mask))):
        mask = call(before, _aten.unsqueeze.default, (mask, -1))
    return mask


def _whole(before: fx.Node, value: fx.Node, target: fx.Node, mask: fx.Node) -> fx.Node | None:
    """What gives the value of an element under the mask, for all elements of `target`, or None."""
    shape, rank = shape_of(value), len(shape_of(target))
    if len(shape) <= rank - len(shape_of(mask)) or all(
        isinstance(size, int) and size == 1 for size in shape
    ):
        return value
    if base_name(value) == "aten.index":
        source, indices = value.args[:2]
        same = is_tensor(source) and _mask(source, indices) is mask
        assert isinstance(source, fx.Node)
        return source if same and shape_of(source) == shape_of(target) else None
    if not is_elementwise(value) or boundaries(value) is not None:
        return None
    wholes: dict[fx.Node, fx.Node] = {}
    for operand in value.all_input_nodes:
        whole = _whole(before, operand, target, mask) if is_tensor(operand) else None
        if whole is None:
            return None
        wholes[operand] = whole
    args, kwargs = fx.map_arg((value.args, value.kwargs), wholes.__getitem__)
    assert callable(value.target)
    return call(before, value.target, args, kwargs, source=value.meta.get(SOURCE, ""))
