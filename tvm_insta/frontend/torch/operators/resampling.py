"""Resizing of images: PyTorch's own weights, computed once, applied one dimension at a time.

TVM 0.27 derives the scale from the sizes where PyTorch was given a scale, rounds nearest
neighbours in another way and ignores antialiasing. Here PyTorch resizes a unit matrix: its rows say
which elements of a row each result is made of, and with which weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.operators.converter import bind, fake
from tvm_insta.frontend.torch.operators.insert import Inserter, replace

_aten = torch.ops.aten


def _nearest(node: fx.Node) -> bool:
    """By whole factors the operator stays; else each result is a copy of one element."""
    bound = bind(node)
    value, result = bound.value("input"), node.meta["val"]
    sizes = list(zip(value.shape[2:], result.shape[2:], strict=True))
    if not all(isinstance(old, int) and isinstance(new, int) for old, new in sizes):
        return False
    if all(new % old == 0 for old, new in sizes):
        return False
    insert = Inserter(node)
    image: Any = bound["input"]
    for number, (old, new) in enumerate(sizes):
        row = torch.arange(old, dtype=torch.float32).view(1, 1, 1, old)
        scale = None if bound["scale_factors"] is None else float(bound["scale_factors"][number])
        index = _aten.upsample_nearest2d.default(row, [1, new], 1.0, scale).flatten().long()
        chosen = insert.constant(index, "index")
        image = insert.call(_aten.index_select.default, image, 2 + number, chosen)
    replace(node, image)
    return True


def _bilinear(node: fx.Node) -> bool:
    return _linear(node, antialias=False)


def _antialiased(node: fx.Node) -> bool:
    return _linear(node, antialias=True)


def _linear(node: fx.Node, *, antialias: bool) -> bool:
    bound = bind(node)
    image: Any = bound["self" if antialias else "input"]
    value, result = fake(image), node.meta["val"]
    sizes = list(zip(value.shape[2:], result.shape[2:], strict=True))
    if not all(isinstance(old, int) and isinstance(new, int) for old, new in sizes):
        return False
    if value.dtype != torch.float32:
        return False
    insert = Inserter(node)
    for number, (old, new) in enumerate(sizes):
        scale = _scale(bound.arguments, number)
        weights = _weights(old, new, bool(bound["align_corners"]), scale, antialias)
        if not torch.equal(weights, torch.eye(old)):
            image = _apply(insert, image, 2 + number, weights)
    replace(node, image)
    return True


def _scale(arguments: dict[str, Any], number: int) -> float | None:
    if arguments.get("scale_factors") is not None:
        return float(arguments["scale_factors"][number])
    scale = arguments.get("scales_h" if number == 0 else "scales_w")
    return None if scale is None else float(scale)


def _weights(old: int, new: int, aligned: bool, scale: float | None, smooth: bool) -> torch.Tensor:
    """``[new, old]``: what PyTorch makes of each unit vector."""
    unit = torch.eye(old).view(old, 1, 1, old)
    if smooth:
        resized = _aten._upsample_bilinear2d_aa.default(unit, [1, new], aligned, 1.0, scale)
    else:
        resized = _aten.upsample_bilinear2d.default(unit, [1, new], aligned, 1.0, scale)
    return resized.view(old, new).t().contiguous()  # type: ignore[no-any-return]


def _apply(insert: Inserter, image: fx.Node, axis: int, weights: torch.Tensor) -> fx.Node:
    """The sum over taps of selected elements times their weights."""
    used = weights != 0
    taps = max(1, int(used.sum(1).max()))
    order = torch.argsort(used.to(torch.int8), dim=1, descending=True, stable=True)[:, :taps]
    picked = weights.gather(1, order)
    order = torch.where(picked != 0, order, order[:, :1])  # a weight of 0 reads a used element
    shape = [1] * image.meta["val"].ndim
    shape[axis] = len(weights)
    total: fx.Node | None = None
    for tap in range(taps):
        index = insert.constant(order[:, tap].contiguous(), "index")
        factor = insert.constant(picked[:, tap].reshape(shape).contiguous(), "weight")
        chosen = insert.call(_aten.index_select.default, image, axis, index)
        part = insert.call(_aten.mul.Tensor, chosen, factor)
        total = part if total is None else insert.call(_aten.add.Tensor, total, part)
    assert total is not None
    return total


RESAMPLING: dict[str, Callable[[fx.Node], bool]] = {
    "aten.upsample_nearest2d.vec": _nearest,
    "aten.upsample_bilinear2d.vec": _bilinear,
    "aten._upsample_bilinear2d_aa.default": _antialiased,
}
