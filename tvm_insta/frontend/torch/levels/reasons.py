"""Why the input of a layer is real-valued, in words."""

from __future__ import annotations

import operator

import torch
from torch import fx

from tvm_insta.frontend.layers import Reason, WhyFloat
from tvm_insta.frontend.torch.graph import base_name, constant, is_tensor, shape_of
from tvm_insta.frontend.torch.levels.means import means_of, near_values
from tvm_insta.frontend.torch.levels.moves import moved_tensors
from tvm_insta.frontend.torch.levels.staircase import undefined_at_zero
from tvm_insta.frontend.torch.levels.steps import MOST
from tvm_insta.frontend.torch.levels.values import Levels
from tvm_insta.frontend.torch.origin import source_line

_ROUNDS = {"round", "floor", "ceil", "trunc"}
_KEEPS = {"add", "sub", "mul", "div", "neg", "clamp", "clamp_min", "clamp_max", "relu", "hardtanh"}
"""Operators that make no new values of their one operand that is no constant."""

_CALLED = {
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_native_batch_norm_legit": "instance_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "max_pool2d_with_indices": "max_pool2d",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
}
"""Names of core operators that no user writes."""


def why_real(node: fx.Node, levels: Levels) -> WhyFloat:
    """Say where the values of a layer's input became many."""
    if node.op == "placeholder":
        return WhyFloat(Reason.NETWORK_INPUT, "its input is the network's input")
    return _averaged(node, levels) or _became_many(node, levels)


def _became_many(node: fx.Node, levels: Levels) -> WhyFloat:
    """What the operator did whose result is real-valued."""
    name = _name(node)
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


def _name(node: fx.Node) -> str:
    """What a node's operator is called in PyTorch, also where the node is one of its results."""
    several = node.args[0] if node.target is operator.getitem else node
    name = base_name(several).removeprefix("aten.").removeprefix("tvm_insta.")
    return _CALLED.get(name, name) or "an operator with several results"


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
    """Whether a tensor was rounded, and since then scaled, shifted and clamped, if anything.

    Scales may be computed, of a row for instance; and it may be a straight-through sum.
    """
    while base_name(node).removeprefix("aten.") not in _ROUNDS:
        source = _kept(node)
        if source is None:
            return False
        node = source
    return True


def _kept(node: fx.Node) -> fx.Node | None:
    """The operand whose number of values a node has; None where it is not known to be so."""
    name = base_name(node).removeprefix("aten.")
    sources = [
        source for source in node.all_input_nodes if is_tensor(source) and constant(source) is None
    ]
    if name in ("mul", "div"):
        sources = [source for source in sources if shape_of(source) == shape_of(node)]
    if name == "add" and len(sources) == 2:
        for x, change in (sources, sources[::-1]):
            if base_name(change) == "aten.sub" and change.args[1] is x:  # x + (hard - x)
                hard = change.args[0]
                return hard if isinstance(hard, fx.Node) else None
    return sources[0] if name in _KEEPS and len(sources) == 1 else None
