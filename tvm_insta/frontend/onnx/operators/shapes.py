"""Operators that move elements: reshape, transpose, slices, pads and the like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import Initialiser
from tvm_insta.frontend.onnx.limits import ELEMENTS, SPAN, check_shape
from tvm_insta.frontend.onnx.operators.registry import (
    Constant,
    Context,
    Ints,
    Result,
    axis_of,
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
    if chosen is None:
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


@operator("Split")
def split(
    x: Tensor,
    sizes: Ints | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    split: tuple[int, ...] | None = None,
    context: Context,
) -> Result:
    """Pieces of the given sizes, or as many as there are outputs."""
    dim = axis_of(axis, x.ndim)
    chosen = sizes if split is None else split
    if chosen is None:
        count = context.outputs if num_outputs is None else num_outputs
        if not 0 < count <= 1024:
            raise ImportModelError(f"it has {count} outputs, but 1 to 1024 are taken")
        size = -(-x.shape[dim] // count)
        chosen = (size,) * (count - 1) + (x.shape[dim] - size * (count - 1),)
    if any(size < 0 for size in chosen):
        raise ImportModelError(f"pieces of {list(chosen)} cannot be made of {x.shape[dim]}")
    return tuple(torch.split(x, list(chosen), dim))


@operator("Slice")
def slice_(
    x: Tensor,
    first: Ints | None = None,
    last: Ints | None = None,
    dims: Ints | None = None,
    steps: Ints | None = None,
    *,
    starts: tuple[int, ...] | None = None,
    ends: tuple[int, ...] | None = None,
    axes: tuple[int, ...] | None = None,
) -> Tensor:
    """Every ``steps``-th element between ``starts`` and ``ends`` of some axes."""
    begin, end = first if starts is None else starts, last if ends is None else ends
    if begin is None or end is None:
        raise ImportModelError("it lacks its starts or ends")
    chosen = (dims if axes is None else axes) or tuple(range(len(begin)))
    steps = steps or (1,) * len(begin)
    if not len(begin) == len(end) == len(chosen) == len(steps):
        raise ImportModelError("its starts, ends, axes and steps have different lengths")
    for start, stop, axis, step in zip(begin, end, chosen, steps, strict=True):
        x = _sliced(x, start, stop, axis_of(axis, x.ndim), step)
    return x


def _sliced(x: Tensor, start: int, stop: int, axis: int, step: int) -> Tensor:
    if step == 0:
        raise ImportModelError("a step of 0 goes nowhere")
    size = x.shape[axis]
    if step < 0:
        first, last = min(start + size if start < 0 else start, size - 1), stop
        last = max(stop + size if stop < 0 else stop, -1) if stop >= -size else -1
        count = max(-(-(first - last) // -step), 0)
        if count == 0:
            return x.narrow(axis, 0, 0)
        turned = x.narrow(axis, first + (count - 1) * step, (count - 1) * -step + 1).flip(axis)
        start, stop, step, x = 0, turned.shape[axis], -step, turned
    if start == 0 and stop >= 2**31 - 1 and step == 1:
        return x
    index = [slice(None)] * axis + [slice(start, None if stop >= 2**31 - 1 else stop, step)]
    return x[tuple(index)]


@operator("Gather")
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Elements along an axis by their index; negative ones count from the end."""
    dim = axis_of(axis, x.ndim)
    flat = indices.reshape(-1).to(torch.int64)
    flat = torch.where(flat < 0, flat + x.shape[dim], flat)
    found = torch.index_select(x, dim, flat)
    return found.reshape([*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :]])


@operator("GatherElements")
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """One element for each index."""
    dim = axis_of(axis, x.ndim)
    positive = torch.where(indices < 0, indices + x.shape[dim], indices)
    return torch.gather(x, dim, positive.to(torch.int64))


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
    _check(sizes)
    return x.expand(sizes)


def _check(sizes: Sequence[int]) -> None:
    check_shape([size if isinstance(size, int) else 1 for size in sizes], "its result")


@operator("Tile")
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """``x`` repeated along each axis."""
    if len(repeats) != x.ndim:
        raise ImportModelError(f"{len(repeats)} numbers do not fit {x.ndim} dimensions")
    _check([size * count for size, count in zip(x.shape, repeats, strict=True)])
    return x.repeat(*repeats)


@operator("Pad")
def pad(
    x: Tensor,
    amounts: Ints | None = None,
    number: Tensor | float | None = None,
    dims: Ints | None = None,
    *,
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant",
    pads: tuple[int, ...] | None = None,
    value: float = 0.0,
) -> Tensor:
    """``x`` with more elements around it, or fewer where an amount is negative."""
    chosen = amounts if pads is None else pads
    axes = [axis_of(axis, x.ndim) for axis in (range(x.ndim) if dims is None else dims)]
    if chosen is None or len(chosen) != 2 * len(axes) or any(abs(n) > SPAN for n in chosen):
        raise ImportModelError(
            f"pads is {None if chosen is None else list(chosen)[:16]}, but {2 * len(axes)} numbers "
            f"of at most {SPAN} are needed"
        )
    if isinstance(number, Tensor):
        raise ImportModelError("the number it pads with is computed from the input")
    pairs = {axis: (chosen[i], chosen[len(axes) + i]) for i, axis in enumerate(axes)}
    _check([size + sum(pairs.get(i, (0, 0))) for i, size in enumerate(x.shape)])
    for axis, (front, behind) in pairs.items():
        if front < 0 or behind < 0:
            x = x.narrow(axis, max(-front, 0), x.shape[axis] - max(-front, 0) - max(-behind, 0))
    pairs = {axis: (max(a, 0), max(b, 0)) for axis, (a, b) in pairs.items()}
    if mode == "constant":
        flat = [n for axis in reversed(range(x.ndim)) for n in pairs.get(axis, (0, 0))]
        while flat[-2:] == [0, 0]:
            flat = flat[:-2]
        fill = value if number is None else number
        return F.pad(x, flat, value=fill) if flat else x
    for axis, (front, behind) in pairs.items():
        if front or behind:
            x = torch.index_select(x, axis, _positions(x.shape[axis], front, behind, mode))
    return x


def _positions(size: int, front: int, behind: int, mode: str) -> Tensor:
    """Which element stands at each place of a padded axis."""
    found = torch.arange(-front, size + behind)
    if mode == "edge":
        return found.clamp(0, size - 1)
    if mode == "wrap":
        return torch.remainder(found, size)
    period = max(2 * (size - 1), 1)
    turned = torch.remainder(found, period)
    return torch.where(turned < size, turned, period - turned)


@operator("Constant")
def constant(
    *,
    value: Initialiser | None = None,
    value_float: float | None = None,
    value_floats: tuple[float, ...] | None = None,
    value_int: int | None = None,
    value_ints: tuple[int, ...] | None = None,
) -> Tensor:
    """A tensor that the file holds."""
    if value is not None:
        return torch.from_numpy(value.array)
    for numbers, dtype in ((value_float, torch.float32), (value_floats, torch.float32)):
        if numbers is not None:
            return torch.tensor(numbers, dtype=dtype)
    for numbers in (value_int, value_ints):
        if numbers is not None:
            return torch.tensor(numbers, dtype=torch.int64)
    raise ImportModelError("it has no value")


@operator("ConstantOfShape")
def constant_of_shape(shape: Ints, *, value: Initialiser | None = None) -> Tensor:
    """A tensor of one number."""
    _check(shape)
    fill = torch.zeros(1) if value is None else torch.from_numpy(value.array)
    if fill.numel() != 1:
        raise ImportModelError(f"its value has {fill.numel()} elements, but must have one")
    return torch.full(tuple(shape), fill.item(), dtype=fill.dtype)


@operator("Range", ignored=("stash_type",))
def range_(start: Constant, limit: Constant, delta: Constant) -> Tensor:
    """Numbers from ``start`` to ``limit`` in steps of ``delta``."""
    first, last, step = (each.array.reshape(-1) for each in (start, limit, delta))
    if not first.size == last.size == step.size == 1 or not step[0]:
        raise ImportModelError("start, limit and delta must be one number each, and delta not 0")
    count = max(math.ceil((float(last[0]) - float(first[0])) / float(step[0])), 0)
    if count > ELEMENTS:
        raise ImportModelError(f"it has {count} elements, but at most {ELEMENTS} are taken")
    numbers = torch.arange(count).to(start.tensor.dtype)
    return numbers * step[0].item() + first[0].item()


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
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """Blocks of the image become channels."""
    b = blocksize
    if x.ndim != 4 or not 1 <= b <= 64 or x.shape[2] % b or x.shape[3] % b:
        raise ImportModelError(f"blocks of {b} do not fit an input of shape {list(x.shape)}")
    n, c, h, w = x.shape
    split_up = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return split_up.reshape(n, c * b * b, h // b, w // b)


@operator("Trilu")
def triangle(x: Tensor, k: Ints | None = None, *, upper: bool = True) -> Tensor:
    """The part above or below a diagonal; the rest is 0."""
    diagonal = k[0] if k else 0
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@operator("Shape")
def shape_(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """The dimensions of ``x``; executed on numbers, see `static`."""
    return torch.tensor(x.shape[slice(start, end)], dtype=torch.int64)


@operator("Size")
def size_(x: Tensor) -> Tensor:
    """The number of elements of ``x``; executed on numbers, see `static`."""
    return torch.tensor(x.numel(), dtype=torch.int64)
