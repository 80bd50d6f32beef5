"""Convolutions of sequences and transposed convolutions as two-dimensional ones.

Both rewrites are exact: a sequence is an image of height 1, and a transposed convolution is a
convolution of the image with zeros stuffed between its elements by the flipped kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import STUFFED, constant, name_of
from tvm_insta.frontend.torch.operators.converter import bind
from tvm_insta.frontend.torch.operators.insert import Inserter, replace

_aten = torch.ops.aten


def sequences_to_images(module: fx.GraphModule) -> None:
    """``aten.convolution`` on ``[N, C, L]`` becomes one on ``[N, C, 1, L]``, in place."""
    for node in list(module.graph.nodes):
        if name_of(node) == "aten.convolution.default" and node.args[0].meta["val"].ndim == 3:
            sequence_to_image(node)
    module.recompile()


def transposed_to_plain(module: fx.GraphModule) -> None:
    """Transposed convolutions become plain ones, in place."""
    for node in list(module.graph.nodes):
        if name_of(node) == "aten.convolution.default" and node.args[6]:
            transposed_to_convolution(node)
    module.recompile()


def sequence_to_image(node: fx.Node) -> None:
    """Rewrite one convolution of rank 3, transposed or not."""
    given = bind(node).arguments
    x, weight, transposed = given["input"], given["weight"], given["transposed"]
    insert = Inserter(node)
    image = insert.call(_aten.unsqueeze.default, x, 2)
    kernel = _mapped(insert, weight, lambda value: value.unsqueeze(2))
    if kernel is None:
        kernel = insert.call(_aten.unsqueeze.default, weight, 2)
    result = insert.call(
        _aten.convolution.default,
        image,
        kernel,
        given["bias"],
        [1, *given["stride"]],
        [0, *given["padding"]],
        [1, *given["dilation"]],
        transposed,
        [0, *given["output_padding"]],
        given["groups"],
    )
    replace(node, insert.call(_aten.squeeze.dims, result, [2]))


def transposed_to_convolution(node: fx.Node) -> None:
    """Rewrite one transposed convolution of rank 4 or 5.

    With stride s, padding p, dilation d, kernel k and output padding o, the image is stuffed with
    s - 1 zeros between neighbours, gets d * (k - 1) - p zeros in front and o more behind (cut
    where that is negative), and is convolved with the kernel flipped in space.
    """
    given = bind(node).arguments
    x, weight, groups = given["input"], given["weight"], int(given["groups"])
    stride, padding, dilation = given["stride"], given["padding"], given["dilation"]
    output_padding = given["output_padding"]
    insert = Inserter(node)
    value = x.meta["val"]
    space = value.ndim - 2
    kernel = weight.meta["val"].shape[2:]
    image: Any = x
    if any(step > 1 for step in stride):
        # The batch is left open: a size read off another input would tie both together.
        sizes = [-1, *insert.sizes(image)[1:]]
        spread = [*sizes[:2], *(item for size in sizes[2:] for item in (size, 1))]
        image = insert.view(image, spread)
        zeros = [pad for step in reversed(stride) for pad in (0, step - 1, 0, 0)]
        image = insert.call(_aten.constant_pad_nd.default, image, zeros, 0.0)
        stuffed = [size * step for size, step in zip(sizes[2:], stride, strict=True)]
        image = insert.view(image, [*sizes[:2], *stuffed])
        image.meta[STUFFED] = x, (1, 1, *map(int, stride))
    pads: list[int] = []
    for axis in reversed(range(space)):
        around = dilation[axis] * (kernel[axis] - 1) - padding[axis]
        pads += [around, around + output_padding[axis] - (stride[axis] - 1)]
    if any(pads):
        image = insert.call(_aten.constant_pad_nd.default, image, pads, 0.0)
    flipped = _mapped(insert, weight, lambda value: _turned(value, groups))
    if flipped is None:
        flipped = _turned_in_graph(insert, weight, groups)
    ones, none = [1] * space, [0] * space
    result = insert.call(
        _aten.convolution.default,
        image,
        flipped,
        given["bias"],
        ones,
        none,
        dilation,
        False,
        none,
        groups,
    )
    replace(node, result)


def _turned(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """``[C, O / groups, ...]`` -> ``[O, C / groups, ...]``, flipped in space."""
    channels, out, *kernel = weight.shape
    grouped = weight.reshape(groups, channels // groups, out, *kernel).transpose(1, 2)
    turned = grouped.reshape(groups * out, channels // groups, *kernel)
    return turned.flip(list(range(2, weight.ndim))).contiguous()


def _turned_in_graph(insert: Inserter, weight: fx.Node, groups: int) -> fx.Node:
    channels, out, *kernel = weight.meta["val"].shape
    grouped = insert.view(weight, [groups, channels // groups, out, *kernel])
    order = [0, 2, 1, *range(3, 3 + len(kernel))]
    grouped = insert.call(_aten.permute.default, grouped, order)
    turned = insert.view(grouped, [groups * out, channels // groups, *kernel])
    return insert.call(_aten.flip.default, turned, list(range(2, 2 + len(kernel))))


def _mapped(insert: Inserter, weight: Any, function: Any) -> fx.Node | None:
    """A constant weight is computed here; None where it depends on the input."""
    value = constant(weight)
    if value is None:
        return None
    return insert.constant(function(value), "kernel", source=weight)
