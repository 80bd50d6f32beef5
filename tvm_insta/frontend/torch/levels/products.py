"""Products of two tensors of few values, as in the attention of binary transformers.

Both factors are packed along the summed dimension, as integers that start at 0 or lie symmetrically
about 0, times a factor. Other values, such as -2 to 1, are such integers and an offset: a product
of ``a + p`` and ``b + q`` is that of a and b, and p times the sums of ``b + q``, q times those of
``a + p``, less ``p * q`` for each summed element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.layers import Reason, WhyFloat
from tvm_insta.frontend.torch.graph import base_name, call, shape_of
from tvm_insta.frontend.torch.levels.codes import Codes, codes_of
from tvm_insta.frontend.torch.levels.compared import compared
from tvm_insta.frontend.torch.levels.forms import MatMul
from tvm_insta.frontend.torch.levels.reasons import why_real
from tvm_insta.frontend.torch.levels.steps import Steps
from tvm_insta.frontend.torch.levels.values import Levels

MOST_PLANES = 4
"""Products of planes that are cheaper than one of floats, whatever the target: the scores of two
ternary factors take four."""


@dataclass(frozen=True)
class Factor:
    """One factor as packed codes.

    Attributes:
        data: the level tensor.
        steps: its comparisons.
        codes: how the values are coded.
        turned: whether the summed dimension of `data` is the last but one.
        ternary: whether the values are -t, 0 and t.
    """

    data: fx.Node
    steps: Steps
    codes: Codes
    turned: bool
    ternary: bool

    @property
    def offset(self) -> float:
        """What is added to `values` to give those of `data`."""
        return 0.0 if self.ternary else self.codes.base

    @property
    def values(self) -> tuple[float, float]:
        """Base and step of the values that are packed."""
        if self.ternary:
            return -self.codes.factor, self.codes.factor
        base, step = self.codes.integers
        return base * self.codes.factor, step * self.codes.factor

    @property
    def axes(self) -> tuple[int, ...]:
        """From the packed layout to that of `data`."""
        rank = len(shape_of(self.data))
        return (*range(rank - 2), *((rank - 1, rank - 2) if self.turned else (rank - 2, rank - 1)))


def factors_of(form: MatMul, levels: Levels) -> tuple[Factor, Factor] | tuple[WhyFloat, ...]:
    """Both factors of a product, or why it stays float."""
    left, right = shape_of(form.data), shape_of(form.weight)
    if len(left) != len(right) or len(left) not in (3, 4) or left[:-2] != right[:-2]:
        text = f"products of {_text(left)} and {_text(right)} are not packed"
        return (WhyFloat(Reason.DIMENSIONS, text),)
    if not all(isinstance(dim, int) for dim in (*left[-2:], *right[-2:])):
        text = f"its factors have the shapes {_text(left)} and {_text(right)}"
        return (WhyFloat(Reason.DIMENSIONS, text),)
    found = [
        _factor(form.data, "first", levels, summed=-1),
        _factor(form.weight, "second", levels, summed=-2),
    ]
    reasons = tuple(each for each in found if isinstance(each, WhyFloat))
    if reasons:
        return reasons
    first, second = (each for each in found if isinstance(each, Factor))
    planes = first.codes.bits * second.codes.bits
    if planes > MOST_PLANES:
        text = (
            f"its factors have {len(first.steps.values)} and {len(second.steps.values)} levels, "
            f"which are {planes} products of planes, but at most {MOST_PLANES} are packed"
        )
        return (WhyFloat(Reason.MANY_LEVELS, text),)
    return first, second


def _factor(data: fx.Node, which: str, levels: Levels, *, summed: int) -> Factor | WhyFloat:
    """One factor of which the last (-1) or the last but one (-2) dimension is summed."""
    turned = summed == -2
    if turned and _swaps_last_two(data):
        source = data.args[0]
        assert isinstance(source, fx.Node)
        data, turned = source, False
    steps = compared(data, levels)
    if steps is None:
        why = why_real(data, levels)
        return WhyFloat(why.code, why.text.replace("its input", f"its {which} factor", 1))
    codes = codes_of(steps)
    if isinstance(codes, WhyFloat):
        return WhyFloat(codes.code, codes.text.replace("its input", f"its {which} factor", 1))
    ternary = len(steps.values) == 3 and abs(codes.value_base + codes.value_step) <= 1e-6 * abs(
        codes.value_step
    )
    return Factor(data, steps, codes, turned, not codes.plain and ternary)


def _swaps_last_two(node: fx.Node) -> bool:
    rank = len(shape_of(node))
    given: Any = node.args
    if base_name(node) == "aten.transpose":
        return {int(dim) % rank for dim in given[1:3]} == {rank - 2, rank - 1}
    if base_name(node) == "aten.permute":
        return [int(dim) % rank for dim in given[1]] == [*range(rank - 2), rank - 1, rank - 2]
    return False


def turn(before: fx.Node, steps: Steps) -> tuple[fx.Node, list[torch.Tensor | fx.Node]]:
    """The compared tensor and its thresholds with the last two dimensions exchanged."""
    rank = len(shape_of(steps.x))

    def node(x: fx.Node) -> fx.Node:
        own = len(shape_of(x))
        if own < rank:
            x = call(before, torch.ops.aten.reshape.default, (x, [1] * (rank - own) + shape_of(x)))
        order = [*range(rank - 2), rank - 1, rank - 2]
        return call(before, torch.ops.aten.permute.default, (x, order))

    thresholds: list[torch.Tensor | fx.Node] = []
    for each in steps.thresholds:
        if isinstance(each, fx.Node):
            thresholds.append(node(each))
        elif each.numel() == 1:
            thresholds.append(each)
        else:
            padded = each.reshape([1] * (rank - each.ndim) + list(each.shape))
            thresholds.append(padded.transpose(-1, -2).contiguous())
    return node(steps.x), thresholds


def _text(shape: list[object]) -> str:
    return "[" + ", ".join(str(dim) for dim in shape) + "]"
