"""What a layer's input was scaled by or moved by after it was binarised, moved behind the layer.

    layer(s * x) = s * layer(x)            layer(x + m) = layer(x) + layer(m)

The scale is one number for all products of a sum: of each image in front of a convolution, as
XNOR-Net scales, of each row in front of a dense layer, computed or constant, or of each channel in
front of a depthwise layer. The offset is a constant, of each input channel for instance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, buffer, call, constant, shape_of
from tvm_insta.frontend.torch.levels.forms import Convolution, Dense, Form

_aten = torch.ops.aten


@dataclass(frozen=True)
class Behind:
    """One operator that was taken off a layer's input.

    Attributes:
        data: the input without it.
        target: what is called behind the layer.
        operand: its second operand there.
    """

    data: fx.Node
    target: Callable[..., Any]
    operand: fx.Node

    def apply(self, before: fx.Node, result: fx.Node) -> fx.Node:
        """The operator, behind the layer."""
        return call(before, self.target, (result, self.operand))


def scale_behind(form: Form, node: fx.Node, data: fx.Node) -> Behind | None:
    """A factor or divisor of the input that is a factor or divisor of the result.

    Args:
        form: the layer.
        node: in front of which constants are put.
        data: the layer's input, or that without what was taken off before.
    """
    name = base_name(data)
    if name not in ("aten.mul", "aten.div") or data.kwargs:
        return None
    pairs = [tuple(data.args)] if name == "aten.div" else [data.args, data.args[::-1]]
    for x, scale in pairs:
        if not isinstance(scale, fx.Node) or not isinstance(x, fx.Node):
            continue
        if shape_of(x) != shape_of(data) or constant(x) is not None:
            continue
        target = _aten.div.Tensor if name == "aten.div" else _aten.mul.Tensor
        if _of_whole_sums(form, scale, len(shape_of(data))):
            return Behind(x, target, scale)
        each = _of_depthwise(form, scale, shape_of(x))
        if each is not None:
            return Behind(x, target, buffer(node, form.per_channel(each), "scale"))
    return None


def _of_whole_sums(form: Form, scale: fx.Node, rank: int) -> bool:
    """Whether a scale is one number for all products of a sum, and broadcasts with the result."""
    shape = shape_of(scale)
    value = constant(scale)
    if value is not None and value.numel() == 1:
        return False  # a scale for all is a part of the levels
    if not shape:
        return True
    if isinstance(form, Convolution):
        return value is None and len(shape) == rank and shape[1:] == [1] * (rank - 1)
    return len(shape) <= rank and shape[-1] == 1


def _of_depthwise(form: Form, scale: fx.Node, shape: list[Any]) -> torch.Tensor | None:
    """``[O]``, a constant scale of the channels of a depthwise convolution."""
    value = constant(scale)
    if value is None or not isinstance(form, Convolution) or form.groups != shape[1]:
        return None
    channels = form.groups
    if value.numel() != channels or list(value.shape)[-3:] != [channels, 1, 1]:
        return None
    return value.flatten().repeat_interleave(int(shape_of(form.weight)[0]) // channels)


def offset_behind(form: Form, node: fx.Node, data: fx.Node) -> Behind | None:
    """A constant that is added to the input, as what the layer makes of it; see `scale_behind`."""
    name, weight = base_name(data), constant(form.weight)
    if name not in ("aten.add", "aten.sub") or data.kwargs or weight is None:
        return None
    pairs = [tuple(data.args)] if name == "aten.sub" else [data.args, data.args[::-1]]
    for x, offset in pairs:
        if not isinstance(x, fx.Node) or constant(x) is not None:
            continue
        value = constant(offset)
        if value is None or value.numel() == 1 or shape_of(x) != shape_of(data):
            continue
        made = _layer_of(form, value.to(torch.float64), weight.to(torch.float64), shape_of(x))
        if made is not None:
            target = _aten.sub.Tensor if name == "aten.sub" else _aten.add.Tensor
            return Behind(x, target, buffer(node, made.to(torch.float32), "offset"))
    return None


def _layer_of(
    form: Form, value: torch.Tensor, weight: torch.Tensor, shape: list[Any]
) -> torch.Tensor | None:
    """What the layer, without its bias, gives for a constant; None where it is of each image."""
    value = value.reshape(*[1] * (len(shape) - value.ndim), *value.shape)
    if value.shape[0] != 1:
        return None
    if isinstance(form, Dense):
        return F.linear(value.expand(*value.shape[:-1], int(shape[-1])), weight)
    if not isinstance(form, Convolution):
        return None
    if not form.pads and value.shape[2:].numel() == 1:
        height, width = (
            (size - 1) * distance + 1
            for size, distance in zip(weight.shape[2:], form.dilation, strict=True)
        )
        image = value.expand(1, int(shape[1]), height, width)  # one place stands for all
    else:
        image = value.expand(1, *(int(size) for size in shape[1:]))
    top, left, bottom, right = form.padding
    padded = F.pad(image, (left, right, top, bottom))
    return F.conv2d(padded, weight, None, form.stride, 0, form.dilation, form.groups)
