"""Why the input of a layer is real-valued, in words."""

from __future__ import annotations

import torch
from torch import fx

from tvm_insta.frontend.layers import Reason, WhyFloat
from tvm_insta.frontend.torch.graph import base_name, constant, is_tensor
from tvm_insta.frontend.torch.levels.means import means_of, near_values
from tvm_insta.frontend.torch.levels.moves import moved_tensors
from tvm_insta.frontend.torch.levels.staircase import undefined_at_zero
from tvm_insta.frontend.torch.levels.steps import MOST
from tvm_insta.frontend.torch.levels.values import Levels
from tvm_insta.frontend.torch.origin import source_line

_ROUNDS = {"round", "floor", "ceil", "trunc"}
_KEEPS = {"add", "sub", "mul", "div", "neg", "clamp", "clamp_min", "clamp_max", "relu", "hardtanh"}
"""Operators that make no new values of their one operand that is no constant."""


def why_real(node: fx.Node, levels: Levels) -> WhyFloat:
    """Say where the values of a layer's input became many."""
    if node.op == "placeholder":
        return WhyFloat(Reason.NETWORK_INPUT, "its input is the network's input")
    return _averaged(node, levels) or _became_many(node, levels)


def _became_many(node: fx.Node, levels: Levels) -> WhyFloat:
    """What the operator did whose result is real-valued."""
    name = base_name(node).removeprefix("aten.") or "an operator with several results"
    line = source_line(node)
    where = f" in {line}" if line else ""
    if undefined_at_zero(node):
        return WhyFloat(
            Reason.UNDEFINED_AT_ZERO,
            f"its input is NaN where the tensor that is binarised is 0 (the result of {name}"
            f"{where}); torch.sign(x) or torch.where(x >= 0, 1.0, -1.0) is packed",
        )
    binarised = [source for source in node.all_input_nodes if _is_binarised(source, levels)]
    scales = [constant(each) for each in node.all_input_nodes]
    if binarised and name in ("mul", "div"):
        several = [each.numel() for each in scales if each is not None and each.numel() > 1]
        if several:
            return WhyFloat(
                Reason.CHANNEL_LEVELS,
                f"its input was binarised and then scaled by {max(several)} numbers ({name}"
                f"{where}); one scale for all, or scales of the output channels, are packed",
            )
    if binarised:
        return WhyFloat(
            Reason.INPUT_CHANGED, f"its input was binarised and then changed by {name}{where}"
        )
    if _rounded(node):
        return WhyFloat(
            Reason.MANY_LEVELS,
            f"its input is rounded to more than {MOST} levels (the result of {name}{where})",
        )
    return WhyFloat(Reason.REAL_INPUT, f"its input is real-valued (the result of {name}{where})")


def _is_binarised(node: fx.Node, levels: Levels) -> bool:
    """Whether a tensor takes several levels: one value is a constant, truths are a condition."""
    if not is_tensor(node) or node.op == "get_attr" or node.meta["val"].dtype == torch.bool:
        return False
    return len(levels.values(node) or ()) > 1


def _averaged(node: fx.Node, levels: Levels) -> WhyFloat | None:
    """Why means of levels are not packed, whether they were moved about since or not."""
    while (means := means_of(node)) is None:
        moved = moved_tensors(node)
        if moved is None or len(moved) != 1:
            return None
        (node,) = moved
    summed = levels.nearby(means.source)
    found = None if summed is None else near_values(means, summed)
    if summed is None or (found is not None and len(found) <= MOST):
        return None
    line, name = source_line(node), base_name(node).removeprefix("aten.")
    where = f"{name} in {line}" if line else name
    same = len({count for count, _ in means.windows}) == 1
    many = f"more than {MOST}" if found is None else str(len(found))
    return WhyFloat(
        Reason.MANY_LEVELS,
        f"its input is a {'mean' if means.divided else 'sum'} of {'' if same else 'up to '}"
        f"{means.most} elements of {len(summed)} levels each ({where}), "
        f"which has {many} levels, but at most {MOST} are packed",
    )


def _rounded(node: fx.Node) -> bool:
    """Whether a tensor is one that was rounded, scaled and shifted by constants and clamped."""
    while (name := base_name(node).removeprefix("aten.")) not in _ROUNDS:
        sources = [
            source
            for source in node.all_input_nodes
            if is_tensor(source) and constant(source) is None
        ]
        if name not in _KEEPS or len(sources) != 1:
            return False
        (node,) = sources
    return True
