"""Operators that move elements: reshape, transpose, slices, pads and the like."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import (
    Constant,
    Context,
    Ints,
    axis_of,
    check_result_shape,
    operator,
)


def _rebatched(shape: list[int], context: Context) -> list[int]:
    """A constant shape that was written for one batch, for another."""
    if context.batch is None or not shape:
        return shape
    written, now = context.batch
    if written and isinstance(shape[0], int) and shape[0] > 0 and shape[0] % written == 0:
        shape[0] = shape[0] // written * now
    return shape


@operator("Reshape")
def reshape(
    x: Tensor, shape: Constant | Ints, *, allowzero: bool = False, context: Context
) -> Tensor:
    """The elements of ``x`` in another shape; 0 keeps a dimension, -1 is what is left."""
    if isinstance(shape, Constant):
        sizes = _rebatched([int(size) for size in shape.array.reshape(-1)], context)
    else:
        sizes = list(shape)
    if not allowzero:
        for i, size in enumerate(sizes):
            if isinstance(size, int) and size == 0:
                if i >= x.ndim:
                    raise ImportModelError(f"shape {sizes} keeps dimension {i}, which is not there")
                sizes[i] = x.shape[i]
    known = [size for size in sizes if isinstance(size, int)]
    if any(size < -1 for size in known) or known.count(-1) > 1:
        raise ImportModelError(f"shape {sizes} is none: one -1 is allowed, and nothing below")
    return x.reshape(sizes)


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """A matrix: the axes in front of ``axis``, and those from it on."""
    first = axis % x.ndim if -x.ndim <= axis < 0 else axis
    if not 0 <= first <= x.ndim:
        raise ImportModelError(f"axis {axis} does not exist in a tensor of {x.ndim} dimensions")
    if first == 1 and x.ndim > 1:
        return torch.flatten(x, 1)
    return x.reshape([math.prod(x.shape[:first]), math.prod(x.shape[first:])])


@operator("Transpose")
def transpose(x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    """The axes in another order; reversed where none is given."""
    order = tuple(reversed(range(x.ndim))) if perm is None else perm
    if sorted(order) != list(range(x.ndim)):
        raise ImportModelError(f"perm {list(order)} is no order of {x.ndim} axes")
    return x.permute(order)


@operator("Squeeze")
def squeeze(x: Tensor, dims: Ints | None = None, *, axes: tuple[int, ...] | None = None) -> Tensor:
    """Without axes of length 1."""
    chosen = dims if axes is None else axes
    if not chosen:  # an empty list of axes, too, is none for ONNX Runtime
        chosen = tuple(i for i, size in enumerate(x.shape) if isinstance(size, int) and size == 1)
    found = tuple(axis_of(axis, x.ndim) for axis in chosen)
    for axis in found:
        if x.shape[axis] != 1:
            raise ImportModelError(f"axis {axis} has length {x.shape[axis]}, and cannot be removed")
    return x.squeeze(found) if found else x


@operator("Unsqueeze")
def unsqueeze(
    x: Tensor, dims: Ints | None = None, *, axes: tuple[int, ...] | None = None
) -> Tensor:
    """With new axes of length 1, counted in the result."""
    chosen = dims if axes is None else axes
    if chosen is None:
        raise ImportModelError("it has no axes")
    for axis in sorted(axis_of(axis, x.ndim, len(chosen)) for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(*tensors: Tensor, axis: int) -> Tensor:
    """The inputs behind each other."""
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise ImportModelError("its inputs have different types")
    return torch.cat(tensors, axis_of(axis, tensors[0].ndim))


@operator("Expand")
def expand(x: Tensor, shape: Ints) -> Tensor:
    """Broadcast with a tensor of ``shape``: a 1 there keeps the dimension of ``x``."""
    rank = max(x.ndim, len(shape))
    own = [1] * (rank - x.ndim) + list(x.shape)
    wanted = [1] * (rank - len(shape)) + list(shape)
    sizes: list[int] = []
    for mine, other in zip(own, wanted, strict=True):
        keep = isinstance(other, int) and other == 1
        sizes.append(mine if keep or not (isinstance(mine, int) and mine == 1) else other)
        if isinstance(mine, int) and isinstance(other, int) and 1 not in (mine, other):
            if mine != other:
                raise ImportModelError(f"{own} cannot be broadcast to {wanted}")
    check_result_shape(sizes)
    return x.expand(sizes)


@operator("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """``x`` repeated along each axis."""
    if len(repeats) != x.ndim:
        raise ImportModelError(f"{len(repeats)} numbers do not fit {x.ndim} dimensions")
    check_result_shape([size * count for size, count in zip(x.shape, repeats, strict=True)])
    return x.repeat(*repeats)


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    """Channels become blocks of the image."""
    b = blocksize
    if x.ndim != 4 or not 1 <= b <= 64 or x.shape[1] % (b * b):
        raise ImportModelError(f"blocks of {b} do not fit an input of shape {list(x.shape)}")
    n, c, h, w = x.shape
    if mode == "CRD":
        return F.pixel_shuffle(x, b)
    split_up = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return split_up.reshape(n, c // (b * b), h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: Literal["DCR", "CRD"] = "DCR") -> Tensor:
    """Blocks of the image become channels."""
    b = blocksize
    if x.ndim != 4 or not 1 <= b <= 64 or x.shape[2] % b or x.shape[3] % b:
        raise ImportModelError(f"blocks of {b} do not fit an input of shape {list(x.shape)}")
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    split_up = blocks.permute((0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4))
    return split_up.reshape(n, c * b * b, h // b, w // b)
