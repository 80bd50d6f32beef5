"""Convolutions and matrix products: the layers of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import Node
from tvm_insta.frontend.onnx.operators.registry import operator, require_float
from tvm_insta.frontend.onnx.operators.window import AutoPad, Window, window

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def check_conv_weight(x: Tensor, w: Tensor, group: int, channels: int) -> None:
    """Do nothing if a weight fits its input.

    Raises:
        ImportModelError: ranks, channels or groups do not fit.
    """
    if x.ndim != w.ndim or not 3 <= x.ndim <= 5:
        raise ImportModelError(
            f"a weight of {w.ndim} dimensions meets an input of {x.ndim}: both need 3 to 5"
        )
    if group < 1 or x.shape[1] != channels or w.shape[0] % group or not w.numel():
        raise ImportModelError(
            f"a weight of shape {list(w.shape)} in {group} groups does not fit "
            f"{x.shape[1]} channels"
        )
    require_float(w, "its weight")


@operator("Conv", layer=True)
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Convolution of ``[N, C, ...]`` with ``[O, C / group, ...]``, 1 to 3 image dimensions."""
    check_conv_weight(x, w, group, w.shape[1] * group)
    kernel = tuple(w.shape[2:])
    if kernel_shape and kernel_shape != kernel:
        raise ImportModelError(f"kernel_shape is {kernel_shape}, but the weight has {kernel}")
    span = window(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    padding = span.before
    if span.before != span.after:
        x, padding = F.pad(x, span.flat), (0,) * len(kernel)
    return _CONV[x.ndim - 3](x, w, b, span.strides, padding, span.dilations, group)


@operator("ConvTranspose", layer=True)
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: tuple[int, ...] = (),
    group: int = 1,
    kernel_shape: tuple[int, ...] = (),
    output_padding: tuple[int, ...] = (),
    output_shape: tuple[int, ...] = (),
    pads: tuple[int, ...] = (),
    strides: tuple[int, ...] = (),
) -> Tensor:
    """Transposed convolution of ``[N, C, ...]`` with ``[C, O / group, ...]``."""
    check_conv_weight(x, w, group, w.shape[0])
    kernel = tuple(w.shape[2:])
    if kernel_shape and kernel_shape != kernel:
        raise ImportModelError(f"kernel_shape is {kernel_shape}, but the weight has {kernel}")
    automatic = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    span = window(x.shape[2:], kernel, strides, dilations, pads, "VALID" if automatic else auto_pad)
    extra = list(output_padding or (0,) * len(kernel))
    if len(extra) != len(kernel) or not all(0 <= e < 64 for e in extra):
        raise ImportModelError(f"output_padding is {output_padding}, which does not fit the kernel")
    before, after = list(span.before), list(span.after)
    if output_shape or automatic:
        wanted = output_shape[-len(kernel) :] or tuple(
            size * stride for size, stride in zip(x.shape[2:], span.strides, strict=True)
        )
        for i, size in enumerate(wanted):
            full = _transposed_size(x.shape[2 + i], kernel[i], span, i) + extra[i]
            total = max(full - size, 0)
            extra[i] += max(size - full, 0)
            small = total // 2
            upper = auto_pad == "SAME_UPPER"
            before[i], after[i] = (small, total - small) if upper else (total - small, small)
    # The output of a convolution without padding, cropped: negative rows come from output_padding.
    rim = tuple(max(e - a, 0) for e, a in zip(extra, after, strict=True))
    fitting = all(r < max(s, d) for r, s, d in zip(rim, span.strides, span.dilations, strict=True))
    if not fitting:
        raise ImportModelError(
            f"it adds {extra} elements behind its result, by output_padding {output_padding} and "
            f"output_shape {output_shape}, but fewer than the stride are taken"
        )
    y = _TRANSPOSED[x.ndim - 3](x, w, b, span.strides, 0, rim, group, span.dilations)
    for i, (first, last) in enumerate(zip(before, after, strict=True)):
        cut = max(last - extra[i], 0)
        y = y.narrow(2 + i, first, y.shape[2 + i] - first - cut)
    return y


def _transposed_size(size: int, kernel: int, span: Window, i: int) -> int:
    return (size - 1) * span.strides[i] + (kernel - 1) * span.dilations[i] + 1


@operator("Gemm", layer=True)
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: bool = False,
    transB: bool = False,
    broadcast: int = 1,
) -> Tensor:
    """``alpha * a @ b + beta * c`` on matrices."""
    if a.ndim != 2 or b.ndim != 2:
        raise ImportModelError(f"tensors of {a.ndim} and {b.ndim} dimensions are no matrices")
    row = c is None or (c.ndim == 1 and c.shape[0] == b.shape[0])
    if transB and alpha == 1.0 and beta == 1.0 and row:
        return F.linear(a.t() if transA else a, b, c)
    result = torch.matmul(a.t() if transA else a, b.t() if transB else b)
    if alpha != 1.0:
        result = result * alpha
    if c is None or beta == 0.0:
        return result
    return result + (c if beta == 1.0 else c * beta)


@operator("MatMul", layer=True)
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The product of matrices, or of stacks of them."""
    if not a.is_floating_point() and (a.numel() == 0 or a.dtype != b.dtype):
        raise ImportModelError(f"{a.dtype} and {b.dtype} cannot be multiplied")
    return torch.matmul(a, b)


@operator("Einsum")
def einsum(*tensors: Tensor, equation: str) -> Tensor:
    """Sums of products by ONNX's (and numpy's) notation."""
    if len(equation) > 64:
        raise ImportModelError(f"the equation {equation[:40]!r}... is too long")
    return torch.einsum(equation, *tensors)


_PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "XnorPopcountMatMul")


def macs(node: Node, inputs: Sequence[Tensor | None], output: Tensor) -> int:
    """Multiply-accumulates of a layer, all images of the batch together.

    Args:
        node: the layer.
        inputs: in the order of the node; None for those that are not known.
        output: its result.
    """
    data = inputs[0]
    if node.op in _PRODUCTS:
        summed = 0 if node.attributes.get("transA") else -1
        return 0 if data is None else output.numel() * int(data.shape[summed])
    # The weight of a quantised layer is behind the scale and the zero point of its data.
    weight = inputs[3 if node.op == "QLinearConv" else 1]
    if data is None or weight is None:
        return 0
    each = data if node.op == "ConvTranspose" else output
    return each.numel() * math.prod(weight.shape[1:])
