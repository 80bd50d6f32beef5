"""How the input of a layer is had from a comparison: directly, behind moves, or by its values."""

from __future__ import annotations

import itertools
import operator
from dataclasses import replace

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import buffer, call, constant, is_tensor, shape_of, source_of
from tvm_insta.frontend.torch.levels.moves import commutes, moved_tensors, takes_largest
from tvm_insta.frontend.torch.levels.steps import Steps
from tvm_insta.frontend.torch.levels.values import Levels


def compared(node: fx.Node, levels: Levels) -> Steps | None:
    """A level tensor as comparisons of one tensor; None where its values are not few.

    Where the levels were moved about, the compared tensor is moved instead, if the thresholds allow
    it; else the levels themselves are compared with the middles between their values.
    """
    steps = _behind_moves(node, levels)
    if steps is not None:
        return steps
    values = levels.nearby(node)
    if values is None or len(values) < 2 or node.meta["val"].dtype != torch.float32:
        return None
    middles = tuple(
        torch.tensor((a + b) / 2, dtype=torch.float32) for a, b in itertools.pairwise(values)
    )
    return Steps(node, "ge", middles, values, None if _passes_nan(node, levels) else 0)


def _passes_nan(node: fx.Node, levels: Levels) -> bool:
    """Whether a tensor of few values is NaN where a compared one is: ``sign(NaN)`` is no level."""
    steps = levels.steps(node)
    if steps is not None:
        return steps.nan is None and not levels.never_nan(steps.x)
    if not is_tensor(node) or not node.meta["val"].is_floating_point():
        return False
    return any(_passes_nan(source, levels) for source in node.all_input_nodes)


def _behind_moves(node: fx.Node, levels: Levels) -> Steps | None:
    steps = levels.steps(node)
    if steps is not None:
        return steps if len(steps.values) > 1 else None
    moved = moved_tensors(node)
    if moved is None or len(moved) != 1:
        return None
    (source,) = moved
    inner = _behind_moves(source, levels)
    return None if inner is None or inner.computed else _moved(node, source, inner, levels)


def _moved(node: fx.Node, source: fx.Node, inner: Steps, levels: Levels) -> Steps | None:
    """The levels `inner` of `source` behind the operator `node` that moves them."""
    rising = inner.compare in ("ge", "gt") and inner.values[0] < inner.values[-1]
    per_channel = not inner.uniform()
    if not commutes(node, per_channel=per_channel, rising=rising):
        return None
    if per_channel and any(
        isinstance(t, torch.Tensor) and t.numel() > 1 and not _one_per_channel(t, source)
        for t in inner.thresholds
    ):
        return None
    x = inner.x
    kept = inner.nan is None or inner.nan == len(inner.thresholds)  # NaN, or the largest level
    if takes_largest(node) and not kept and not levels.never_nan(x):
        number = _number_of_level(inner, inner.nan or 0)
        if number is None:
            return None
        x = _without_nan(node, x, number)
    again = _apply(node, source, x)
    return None if again is None else replace(inner, x=again)


def _number_of_level(steps: Steps, code: int) -> torch.Tensor | None:
    """A number below all thresholds but the first `code`, one for all channels; None if unknown."""
    if code == 0:
        return torch.tensor(-torch.inf)
    at = steps.thresholds[code - 1 if steps.compare == "ge" else code]
    return at.reshape(()) if steps.uniform() and isinstance(at, torch.Tensor) else None


def _without_nan(node: fx.Node, x: fx.Node, number: torch.Tensor) -> fx.Node:
    """Write a number in place of NaN: a maximum of levels is no NaN where one of them is NaN's."""
    before = node.args[0] if node.target is operator.getitem else node
    assert isinstance(before, fx.Node)
    bare = call(before, torch.ops.aten.isnan.default, (x,))
    filled = (bare, buffer(before, number, "for_nan"), x)
    return call(before, torch.ops.aten.where.self, filled)


def _one_per_channel(threshold: torch.Tensor, x: fx.Node) -> bool:
    shape = shape_of(x)
    if len(shape) != 4:
        return False
    padded = [1] * (4 - threshold.ndim) + list(threshold.shape)
    return padded == [1, shape[1], 1, 1]


def _apply(node: fx.Node, source: fx.Node, x: fx.Node) -> fx.Node | None:
    """The same move, of another tensor of the same shape."""
    if node.args and isinstance(node.args[0], fx.Node) and not is_tensor(node.args[0]):
        several = _apply_call(node.args[0], source, x)
        if several is None:
            return None
        return call(node, node.target, (several, *node.args[1:]))  # type: ignore[arg-type]
    return _apply_call(node, source, x)


def _apply_call(
    node: fx.Node, source: fx.Node, x: fx.Node, before: fx.Node | None = None
) -> fx.Node | None:
    if node.kwargs:
        return None
    read = node.args[0]
    if read is not source and isinstance(read, fx.Node):  # a pool of a padded image: pad x as well
        padded = _apply_call(read, source, x, before or node)
        if padded is None:
            return None
        source, x = read, padded
    args = fx.map_arg(node.args, lambda arg: x if arg is source else arg)
    return call(before or node, node.target, args)  # type: ignore[arg-type]


def roots_of(node: fx.Node, levels: Levels) -> tuple[str, ...]:
    """Names, in the exported graph, of the tensors whose comparison gives a level tensor."""
    found: dict[str, None] = {}
    seen: set[fx.Node] = set()

    def visit(each: fx.Node) -> None:
        if each in seen or constant(each) is not None:
            return
        if isinstance(each.meta.get("val"), torch.SymInt):  # the size of a new tensor
            return
        seen.add(each)
        steps = levels.steps(each)
        if steps is not None:
            found[source_of(steps.x) or _named_behind(each, steps.x)] = None
            for threshold in steps.thresholds:
                if isinstance(threshold, fx.Node):
                    seen.add(threshold)
        elif is_tensor(each) and (each.op == "placeholder" or levels.nearby(each) is None):
            found[source_of(each)] = None
        else:
            for source in each.all_input_nodes:
                visit(source)

    visit(node)
    return tuple(name for name in found if name)


def _named_behind(node: fx.Node, x: fx.Node) -> str:
    """The name of what is computed from ``x`` first on the way to ``node``, "" where nothing is.

    A layer without its bias is no tensor of the exported graph; with it, it is.
    """
    waiting, seen = [node], {node}
    while waiting:
        each = waiting.pop()
        if x in each.all_input_nodes and source_of(each):
            return source_of(each)
        new = [source for source in each.all_input_nodes if source is not x and source not in seen]
        seen.update(new)
        waiting += new
    return ""
