"""Pools: maxima and means over windows and over whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import Context, Result, operator, require_float
from tvm_insta.frontend.onnx.operators.window import AutoPad, Window, window

_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def _rank(x: Tensor, kernel: Sequence[int]) -> int:
    if x.ndim != len(kernel) + 2 or not 1 <= len(kernel) <= 3:
        raise ImportModelError(
            f"a kernel of {len(kernel)} dimensions does not fit an input of {x.ndim}"
        )
    return len(kernel)


def _rounded_up(x: Tensor, span: Window, ceil_mode: bool) -> tuple[int, ...]:
    """Rows to add behind, so that windows that begin in the image and end outside count too.

    A window that would begin in the padding behind is left out, as PyTorch and newer versions of
    ONNX have it.
    """
    more = []
    for i, stride in enumerate(span.strides):
        size, extent = x.shape[2 + i], span.extent(i)
        length = size + span.before[i] + span.after[i]
        if length < extent:
            raise ImportModelError(
                f"a window of {extent} does not fit an image of {size} with pads "
                f"{span.before[i]} and {span.after[i]}"
            )
        count = (length - extent) // stride + 1
        if ceil_mode and (length - extent) % stride and count * stride < size + span.before[i]:
            count += 1
        more.append(max((count - 1) * stride + extent - length, 0))
    return tuple(more)


def _widened(span: Window, more: Sequence[int]) -> Window:
    after = tuple(a + m for a, m in zip(span.after, more, strict=True))
    return Window(span.kernel, span.strides, span.dilations, span.before, after)


def _torch_can(span: Window) -> bool:
    """PyTorch pads both sides alike, by at most half the kernel."""
    return span.before == span.after and all(
        2 * pad <= size for pad, size in zip(span.before, span.kernel, strict=True)
    )


@operator("MaxPool")
def max_pool(
    x: Tensor,
    *,
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    dilations: tuple[int, ...] = (),
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] = (),
    storage_order: int = 0,
    strides: tuple[int, ...] = (),
    context: Context,
) -> Result:
    """The largest of each window."""
    if context.outputs > 1:
        raise ImportModelError("its second output, the positions of the maxima, is not taken")
    rank = _rank(x, kernel_shape)
    if not x.is_floating_point() and x.dtype not in (torch.int8, torch.uint8):
        raise ImportModelError(f"its input holds {x.dtype}, but floats and bytes are taken")
    span = window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    span = _widened(span, _rounded_up(x, span, ceil_mode))
    padding, dtype = span.before, x.dtype
    if dtype in (torch.int8, torch.uint8):  # exact in float32, in which PyTorch pools
        x = x.to(torch.float32)
    if not _torch_can(span):
        x, padding = F.pad(x, span.flat, value=-math.inf), (0,) * rank
    return _MAX[rank - 1](x, span.kernel, span.strides, padding, span.dilations).to(dtype)


@operator("AveragePool")
def average_pool(
    x: Tensor,
    *,
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    dilations: tuple[int, ...] = (),
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """The mean of each window; pads count where ``count_include_pad`` says so."""
    rank = _rank(x, kernel_shape)
    require_float(x, "its input")
    given = window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    more = _rounded_up(x, given, ceil_mode)
    span = _widened(given, more)
    plain = all(d == 1 for d in span.dilations)
    if plain and not any(span.before) and not any(span.after):
        return _AVERAGE[rank - 1](x, span.kernel, span.strides)
    if plain and not any(more) and _torch_can(span):
        return _AVERAGE[rank - 1](
            x, span.kernel, span.strides, span.before, False, count_include_pad
        )
    # Sums of windows over the padded image, divided by how many elements of each count.
    counted = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    if count_include_pad:
        counted = F.pad(counted, given.flat, value=1.0)
        counted = F.pad(counted, _behind(more))
    else:
        counted = F.pad(counted, span.flat)
    return _sums(F.pad(x, span.flat), span) / _sums(counted, span)


def _behind(more: Sequence[int]) -> list[int]:
    return [pad for m in reversed(more) for pad in (0, m)]


def _sums(x: Tensor, span: Window) -> Tensor:
    """Sums over the windows of a padded image, dilations included."""
    for i, size in enumerate(span.kernel):
        axis, step = 2 + i, span.strides[i]
        count = (x.shape[axis] - span.extent(i)) // step + 1
        total = None
        for k in range(size):
            start = k * span.dilations[i]
            index = [slice(None)] * axis + [slice(start, start + (count - 1) * step + 1, step)]
            part = x[tuple(index)]
            total = part if total is None else total + part
        assert total is not None
        x = total
    return x


@operator("LpPool")
def lp_pool(
    x: Tensor,
    *,
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: bool = False,
    dilations: tuple[int, ...] = (),
    kernel_shape: tuple[int, ...],
    p: int = 2,
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """The p-norm of each window."""
    _rank(x, kernel_shape)
    span = window(x.shape[2:], kernel_shape, strides, dilations, pads, auto_pad)
    span = _widened(span, _rounded_up(x, span, ceil_mode))
    sums = _sums(F.pad(x.abs() if p == 1 else x.abs().pow(p), span.flat), span)
    return sums if p == 1 else sums.pow(1.0 / p)


def _image_axes(x: Tensor) -> tuple[int, ...]:
    if x.ndim < 3:
        raise ImportModelError(f"an input of {x.ndim} dimensions is no batch of images")
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """The mean of each channel."""
    return require_float(x, "its input").mean(_image_axes(x), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """The largest of each channel."""
    return _MAX[len(_image_axes(x)) - 1](x, tuple(x.shape[2:]))
