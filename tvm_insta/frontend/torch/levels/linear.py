"""Straight-through estimators: ``(hard - soft) + soft`` is ``hard``.

Training code adds and subtracts a smooth function to give the quantiser a gradient: ``x + (q -
x).detach()``, ``q.detach() - s.detach() + s`` and so on. In evaluation the smooth parts cancel, but
for float rounding; the value that is meant is ``q``. Sums are written as linear combinations, and
where all that is left after cancelling is one tensor with the factor 1, it is that tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from tvm_insta.frontend.torch.graph import base_name, constant, is_tensor
from tvm_insta.frontend.torch.levels.elementwise import same_shape

if TYPE_CHECKING:
    from tvm_insta.frontend.torch.levels.values import Levels

_DEPTH = 8


def straight_through(node: fx.Node, levels: Levels) -> fx.Node | None:
    """The tensor of few values that a sum is, once the smooth terms have cancelled.

    Args:
        node: any node.
        levels: tells whether what is left has few values.

    Returns:
        None where nothing cancels, or where more than one term is left.
    """
    if base_name(node) not in ("aten.add", "aten.sub"):
        return None
    terms: dict[fx.Node, float] = {}
    if not _collect(node, 1.0, terms, _DEPTH):
        return None
    left = {term: factor for term, factor in terms.items() if factor != 0.0}
    if len(left) == len(terms) or len(left) != 1:
        return None
    (hard, factor), *_ = left.items()
    if factor != 1.0 or not same_shape(hard, node) or levels.values(hard) is None:
        return None
    return hard


def _collect(node: Any, factor: float, terms: dict[fx.Node, float], depth: int) -> bool:
    """Add ``factor * node`` to the terms; False where a number without a tensor is among them."""
    if not isinstance(node, fx.Node) or not is_tensor(node):
        return False
    name = base_name(node)
    if depth and constant(node) is None and not node.kwargs and name in ("aten.add", "aten.sub"):
        left, right = node.args
        before = dict(terms)
        sign = 1.0 if name == "aten.add" else -1.0
        if _collect(left, factor, terms, depth - 1) and _collect(
            right, sign * factor, terms, depth - 1
        ):
            return True
        terms.clear()
        terms.update(before)
    terms[node] = terms.get(node, 0.0) + factor
    return True
