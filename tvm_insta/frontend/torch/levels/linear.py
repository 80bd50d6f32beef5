"""Straight-through estimators: ``(hard - soft) + soft`` is ``hard``.

Training code adds and subtracts a smooth function to give the quantiser a gradient: ``x + (q -
x).detach()``, ``q.detach() - s.detach() + s`` and so on. In evaluation the smooth parts cancel, but
for float rounding; the value that is meant is ``q``. Sums are written as linear combinations, and
where all that is left after cancelling is one tensor with the factor 1, it is that tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import fx

from tvm_insta.frontend.torch.graph import base_name, is_tensor
from tvm_insta.frontend.torch.levels.elementwise import same_shape

if TYPE_CHECKING:
    from tvm_insta.frontend.torch.levels.values import Levels

_MOST = 64
"""Sums that are written out, at most: smooth functions with a dozen terms appear three times."""


def straight_through(node: fx.Node, levels: Levels) -> fx.Node | None:
    """The tensor of few values that a sum is, once the smooth terms have cancelled.

    The latest sum is written out first: a smooth term that is a sum itself has then met its
    negative, and is gone, before its own terms are looked at.

    Args:
        node: any node.
        levels: tells whether what is left has few values.

    Returns:
        None where nothing cancels, or where more than one term is left.
    """
    terms, cancelled = {node: 1.0}, False
    for _ in range(_MOST):
        sums = [term for term in terms if _is_sum(term)]
        if not sums:
            return None
        latest = max(sums)
        factor = terms.pop(latest)
        left, right = latest.args
        sign = 1.0 if base_name(latest) == "aten.add" else -1.0
        for part, times in ((left, factor), (right, sign * factor)):
            assert isinstance(part, fx.Node)
            terms[part] = terms.get(part, 0.0) + times
            if terms[part] == 0.0:
                del terms[part]
                cancelled = True
        if cancelled and len(terms) == 1:
            ((hard, factor),) = terms.items()
            if factor == 1.0 and same_shape(hard, node) and levels.values(hard) is not None:
                return hard
    return None


def _is_sum(node: fx.Node) -> bool:
    """Whether a node adds or subtracts two tensors."""
    if base_name(node) not in ("aten.add", "aten.sub") or node.kwargs:
        return False
    return all(is_tensor(each) for each in node.args)
