"""Operators that take parts of a tensor, and pad it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.limits import SPAN
from tvm_insta.frontend.onnx.operators.registry import (
    Constant,
    Context,
    Ints,
    Result,
    axis_of,
    check_result_shape,
    operator,
)


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
        first, last = min(max(start + size, 0) if start < 0 else start, size - 1), stop
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


@operator("Pad")
def pad(
    x: Tensor,
    amounts: Ints | None = None,
    number: Constant | None = None,
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
    pairs = {axis: (chosen[i], chosen[len(axes) + i]) for i, axis in enumerate(axes)}
    check_result_shape([size + sum(pairs.get(i, (0, 0))) for i, size in enumerate(x.shape)])
    for axis, (front, behind) in pairs.items():
        if front < 0 or behind < 0:
            x = x.narrow(axis, max(-front, 0), x.shape[axis] - max(-front, 0) - max(-behind, 0))
    pairs = {axis: (max(a, 0), max(b, 0)) for axis, (a, b) in pairs.items()}
    if mode == "constant":
        flat = [n for axis in reversed(range(x.ndim)) for n in pairs.get(axis, (0, 0))]
        while flat[-2:] == [0, 0]:
            flat = flat[:-2]
        fill = value if number is None else _one(number)
        return F.pad(x, flat, value=fill) if flat else x
    for axis, (front, behind) in pairs.items():
        if front or behind:
            x = torch.index_select(x, axis, _positions(x.shape[axis], front, behind, mode))
    return x


def _one(number: Constant) -> float:
    if number.array.size != 1:
        raise ImportModelError(f"it pads with {number.array.size} numbers, but one is needed")
    found: float = number.array.reshape(-1)[0].item()
    return found


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
