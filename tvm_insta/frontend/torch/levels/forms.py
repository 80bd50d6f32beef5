"""The kinds of layer: how each is applied, and what a layer of ones gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, buffer, call, constant, matrix, shape_of
from tvm_insta.frontend.torch.operators.refusal import refusal


@dataclass(frozen=True)
class Form:
    """One layer of the exported graph.

    Attributes:
        op: "conv2d", "dense" or "matmul".
        data: the activations.
        weight: ``[O, C / groups, KH, KW]`` or ``[O, C]``; for "matmul" the second factor.
        bias: ``[O]``, or None.
        groups: convolution groups, 1 for the others.
    """

    op: str
    data: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    groups: int = 1

    @property
    def channels_last(self) -> bool:
        """Whether the channels of the activations are their last dimension."""
        return True

    @property
    def pads(self) -> bool:
        """Whether some products are left out at the border."""
        return False

    def apply(self, before: fx.Node, data: fx.Node, weight: fx.Node, layer: str) -> fx.Node:
        """The layer without its bias, of other activations and weights."""
        raise NotImplementedError

    def of_ones(self, weight: torch.Tensor) -> torch.Tensor:
        """What the layer gives for activations of 1, for one image; float64, broadcastable."""
        raise NotImplementedError

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """``[O]`` as float32 that broadcasts to the result."""
        return values.to(torch.float32)

    def shaped_bias(self, before: fx.Node) -> fx.Node:
        """The bias, broadcastable to the result."""
        assert self.bias is not None
        value = constant(self.bias)
        if value is None:
            return self.bias
        return buffer(before, self.per_channel(value), "bias")

    def macs(self, node: fx.Node) -> int:
        """Multiply-accumulates for one image."""
        return math.prod(self.output_shape(node)) * math.prod(self.weight_shape()[1:])

    def output_shape(self, node: fx.Node) -> tuple[int, ...]:
        """Of one image, channels last."""
        return tuple(of_one_image(dim) for dim in shape_of(node)[1:])

    def weight_shape(self) -> tuple[int, ...]:
        """As the report has it: channels last."""
        return tuple(int(dim) for dim in shape_of(self.weight))


@dataclass(frozen=True)
class Convolution(Form):
    """A two-dimensional convolution.

    Attributes:
        stride: vertical, horizontal.
        padding: top, left, bottom, right.
        dilation: vertical, horizontal.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def channels_last(self) -> bool:
        """See `Form.channels_last`."""
        return False

    @property
    def pads(self) -> bool:
        """See `Form.pads`."""
        return any(self.padding)

    def apply(self, before: fx.Node, data: fx.Node, weight: fx.Node, layer: str) -> fx.Node:
        """See `Form.apply`."""
        numbers = [list(each) for each in (self.stride, self.padding, self.dilation)]
        return call(
            before,
            torch.ops.tvm_insta.convolution.default,
            (data, weight, *numbers, self.groups, layer),
        )

    def of_ones(self, weight: torch.Tensor) -> torch.Tensor:
        """See `Form.of_ones`: ``[1, O, OH, OW]``, or ``[1, O, 1, 1]`` where nothing is padded."""
        _, channels, *image = shape_of(self.data)
        if not any(self.padding):
            return weight.to(torch.float64).sum((1, 2, 3)).reshape(1, -1, 1, 1)
        top, left, bottom, right = self.padding
        ones = torch.ones(1, channels, *image, dtype=torch.float64)
        ones = F.pad(ones, (left, right, top, bottom))
        wide = weight.to(torch.float64)
        return F.conv2d(ones, wide, None, self.stride, 0, self.dilation, self.groups)

    def per_channel(self, values: torch.Tensor) -> torch.Tensor:
        """See `Form.per_channel`: ``[1, O, 1, 1]``."""
        return values.to(torch.float32).reshape(1, -1, 1, 1)

    def output_shape(self, node: fx.Node) -> tuple[int, ...]:
        """See `Form.output_shape`."""
        channels, height, width = super().output_shape(node)
        return height, width, channels

    def weight_shape(self) -> tuple[int, ...]:
        """See `Form.weight_shape`."""
        out, channels, height, width = super().weight_shape()
        return out, height, width, channels


@dataclass(frozen=True)
class Dense(Form):
    """A fully connected layer of the last dimension; its weight is ``[O, C]``."""

    def apply(self, before: fx.Node, data: fx.Node, weight: fx.Node, layer: str) -> fx.Node:
        """See `Form.apply`."""
        return call(before, torch.ops.tvm_insta.linear.default, (data, weight, layer))

    def of_ones(self, weight: torch.Tensor) -> torch.Tensor:
        """See `Form.of_ones`: ``[O]``."""
        return weight.to(torch.float64).sum(1)


@dataclass(frozen=True)
class MatMul(Form):
    """A product of two computed tensors."""

    def apply(self, before: fx.Node, data: fx.Node, weight: fx.Node, layer: str) -> fx.Node:
        """See `Form.apply`."""
        return call(before, torch.ops.tvm_insta.matmul.default, (data, weight, layer))

    def macs(self, node: fx.Node) -> int:
        """See `Form.macs`."""
        return math.prod(self.output_shape(node)) * int(shape_of(self.data)[-1])

    def weight_shape(self) -> tuple[int, ...]:
        """See `Form.weight_shape`."""
        return ()


def of_one_image(dim: Any) -> int:
    """A dimension where the batch is 1; -1 where it depends on more than the batch."""
    if isinstance(dim, int):
        return dim
    expression = dim.node.expr
    one = expression.subs(dict.fromkeys(expression.free_symbols, 1))
    return int(one) if one.is_integer and one.is_number else -1


def form_of(node: fx.Node) -> Form | None:
    """The layer that a node is, None for any other operator."""
    rule = _FORMS.get(base_name(node))
    return rule(node) if rule is not None else None


def _convolution(node: fx.Node) -> Form | None:
    data, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
    assert isinstance(data, fx.Node) and isinstance(weight, fx.Node)
    if isinstance(groups, fx.Node):
        raise refusal(
            node,
            "with groups for each image of the batch",
            "compile with max_batch=1",
        )
    if transposed or len(shape_of(data)) != 4:
        return None
    height, width = _pair(padding)
    data, padded = _zero_padded(data)
    own = (height, width, height, width)
    sides = [a + b for a, b in zip(own, padded, strict=True)]
    return Convolution(
        "conv2d",
        data,
        weight,
        bias if isinstance(bias, fx.Node) else None,
        int(groups),  # type: ignore[arg-type]
        _pair(stride),
        (sides[0], sides[1], sides[2], sides[3]),
        _pair(dilation),
    )


def _zero_padded(data: fx.Node) -> tuple[fx.Node, tuple[int, int, int, int]]:
    """Zeros that an operator of its own padded: a convolution of ours pads any sides."""
    none = (0, 0, 0, 0)
    if base_name(data) != "aten.constant_pad_nd" or (len(data.args) > 2 and data.args[2] != 0):
        return data, none
    source, widths = data.args[0], data.args[1]
    assert isinstance(source, fx.Node) and isinstance(widths, (list, tuple))
    if len(widths) not in (2, 4) or not all(isinstance(w, int) and w >= 0 for w in widths):
        return data, none
    left, right, top, bottom = (*widths, 0, 0)[:4]
    return source, (int(top), int(left), int(bottom), int(right))


def _pair(values: Any) -> tuple[int, int]:
    pair: Sequence[int] = list(values) * (2 if len(values) == 1 else 1)
    return int(pair[0]), int(pair[1])


def _linear(node: fx.Node) -> Form | None:
    data, weight, *rest = node.args
    assert isinstance(data, fx.Node) and isinstance(weight, fx.Node)
    bias = rest[0] if rest and isinstance(rest[0], fx.Node) else None
    return Dense("dense", data, weight, bias)


def _product(node: fx.Node) -> Form | None:
    left, right = node.args[:2]
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    value = matrix(right, len(shape_of(left)))
    if value is not None:
        return Dense("dense", left, _turned(node, right, value), None)
    if min(len(shape_of(left)), len(shape_of(right))) < 2:
        return None
    return MatMul("matmul", left, right, None)


def _addmm(node: fx.Node) -> Form | None:
    bias, left, right = node.args  # `normalise` has written factors out
    assert isinstance(bias, fx.Node) and isinstance(left, fx.Node) and isinstance(right, fx.Node)
    value = constant(right)
    if value is None:
        return None
    return Dense("dense", left, _turned(node, right, value), bias)


def _turned(before: fx.Node, right: fx.Node, value: torch.Tensor) -> fx.Node:
    """``[C, O]``, the value of the second factor, as the weight of a layer."""
    return buffer(before, value.t().contiguous(), "weight", source=right)


_FORMS = {
    "aten.convolution": _convolution,
    "aten.linear": _linear,
    "aten.matmul": _product,
    "aten.mm": _product,
    "aten.bmm": _product,
    "aten.addmm": _addmm,
}
