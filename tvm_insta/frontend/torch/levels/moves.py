"""Operators that move elements about, repeat or choose them, and change none.

A tensor of few values keeps them through these; and a threshold may be applied behind them as well
as in front, where it is one number for all elements.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, is_tensor, shape_of

_ONE_INPUT = frozenset(
    f"aten.{name}"
    for name in (
        "view _unsafe_view reshape permute transpose t squeeze unsqueeze slice select narrow "
        "index_select gather index embedding expand repeat tile flip roll pixel_shuffle "
        "pixel_unshuffle channel_shuffle upsample_nearest1d upsample_nearest2d alias clone "
        "detach flatten unfold "
        "reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d _unsafe_index "
        "max_pool2d_with_indices max_pool2d amax amin adaptive_max_pool2d max_pool1d contiguous "
        "as_strided unbind split split_with_sizes chunk sort topk cummax diagonal "
        "lift_fresh_copy"
    ).split()
)
_MANY = frozenset({"aten.cat", "aten.stack", "aten.maximum", "aten.minimum"})
_INSERTS = frozenset({"aten.slice_scatter", "aten.select_scatter", "aten.diagonal_scatter"})
"""An assignment to a part of a tensor: ``y[:, 1:] = x``."""
_MONOTONE_ONLY = frozenset(
    {
        "aten.max_pool2d_with_indices",
        "aten.max_pool2d",
        "aten.max_pool1d",
        "aten.amax",
        "aten.adaptive_max_pool2d",
    }
)
_KEEPS_CHANNELS = frozenset(
    f"aten.{name}"
    for name in (
        "max_pool2d_with_indices max_pool2d adaptive_max_pool2d upsample_nearest2d "
        "reflection_pad2d replication_pad2d clone"
    ).split()
)
"""Of ``[N, C, H, W]``: the elements of a channel stay in it, and every channel is treated alike."""


_POOLS = frozenset({"aten.max_pool2d_with_indices", "aten.max_pool2d"})


def moved_tensors(node: fx.Node) -> list[fx.Node] | None:
    """The tensors whose elements a node's elements are, None where the operator computes.

    Padding with a number is told by `padding_value`; that of a maximum pool with -infinity, which
    is no element of the result, is passed over.
    """
    name = base_name(node)
    if node.target is operator.getitem:
        source = node.args[0]
        if isinstance(source, fx.Node) and node.args[1] == 0:
            return moved_tensors(source)
        return moved_tensors(source) if base_name(source) in _LISTS else None  # type: ignore[arg-type]
    if name in _ONE_INPUT or name in ("aten.constant_pad_nd", "aten.copy"):
        # What is copied is of the same type, see `normalise`; what it is written over is gone.
        source = node.args[1] if name == "aten.copy" else _behind_padding(node) or node.args[0]
        return [source] if isinstance(source, fx.Node) and is_tensor(source) else None
    if name in _INSERTS:
        return [each for each in node.args[:2] if isinstance(each, fx.Node)]
    if name in _MANY:
        sources = node.args[0] if isinstance(node.args[0], (list, tuple)) else node.args
        return [each for each in sources if isinstance(each, fx.Node)]
    return None


def _behind_padding(node: fx.Node) -> fx.Node | None:
    """The image of a maximum pool that was padded with -infinity, which is never the maximum.

    PyTorch's pool pads both sides alike, by half a window at most; who pads otherwise (ONNX, "SAME"
    of TensorFlow) pads the image first. None where a window lies in the padding alone, and for any
    other node.
    """
    if base_name(node) not in _POOLS:
        return None
    pad, *geometry = node.args
    row = base_name(pad) == "aten.unsqueeze" and pad.args[1] == -2  # type: ignore[union-attr]
    pad = pad.args[0] if row else pad  # type: ignore[union-attr]
    if not isinstance(pad, fx.Node) or padding_value(pad) != -math.inf:
        return None
    source: Any = pad.args[0]
    sizes = [1, *([] if row else [1]), *shape_of(source)[-1 if row else -2 :]]
    if not all(isinstance(size, int) for size in sizes):
        return None
    inside = torch.ops.aten.constant_pad_nd.default(torch.zeros(sizes), *pad.args[1:])
    inside = inside.unsqueeze(-2) if row else inside
    largest = node.target(inside, *geometry)[0]  # type: ignore[operator]
    return source if bool(torch.isfinite(largest).all()) else None


_LISTS = frozenset({"aten.split", "aten.split_with_sizes", "aten.unbind", "aten.chunk"})


def padding_value(node: fx.Node) -> float | None:
    """The number that a node pads with, None where it does not pad with a number."""
    if base_name(node) != "aten.constant_pad_nd":
        return None
    value = node.args[2] if len(node.args) > 2 else 0.0
    return float(value) if isinstance(value, (int, float)) else math.nan


def takes_largest(node: fx.Node) -> bool:
    """Whether a node's elements are the largest of several, and NaN where one of them is NaN."""
    return _name(node) in _MONOTONE_ONLY


def _name(node: fx.Node) -> str:
    """The operator's name; that of the operator of which a node is the first result."""
    if node.target is operator.getitem:
        assert isinstance(node.args[0], fx.Node)
        node = node.args[0]
    return base_name(node)


def commutes(node: fx.Node, *, per_channel: bool, rising: bool) -> bool:
    """Whether ``move(levels(x))`` is ``levels(move(x))`` with the same thresholds.

    Args:
        node: an operator of one tensor that moves elements.
        per_channel: the thresholds differ from channel to channel.
        rising: the levels increase with x, as a maximum demands.
    """
    name = _name(node)
    if name == "aten.constant_pad_nd" or name not in _ONE_INPUT or name == "aten.amin":
        return False
    if name in ("aten.sort", "aten.topk", "aten.cummax"):
        return False
    if name in _MONOTONE_ONLY and not rising:
        return False
    return not per_channel or name in _KEEPS_CHANNELS
