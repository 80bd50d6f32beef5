"""Convolutions, products, pools and normalisations."""

from __future__ import annotations

import math
from typing import Any

import torch
from tvm import relax

from tvm_insta.frontend.torch.operators.arithmetic import multiply
from tvm_insta.frontend.torch.operators.converter import (
    Bound,
    Call,
    Expr,
    converts,
    number,
)

_FLOAT = "convert both operands to float32"


def _check_floats(bound: Bound) -> tuple[str, str] | None:
    for value in bound.arguments.values():
        found = value.meta.get("val") if hasattr(value, "meta") else None
        if isinstance(found, torch.Tensor) and found.dtype not in (torch.float32, torch.float64):
            return f"of {found.dtype}", _FLOAT
    return None


def _check_convolution(bound: Bound) -> tuple[str, str] | None:
    value = bound.value("input")
    if bound["transposed"]:
        return "transposed in this form", "use a stride and padding that are fixed numbers"
    if value.ndim not in (4, 5):
        return f"on a tensor of rank {value.ndim}", "give it a batch and 1 to 3 dimensions of space"
    if not all(isinstance(size, int) for size in value.shape[1:]):
        return "on images of no fixed size", "fix the image's size"
    return _check_floats(bound)


@converts("convolution.default", check=_check_convolution)
def _convolution(c: Call) -> Expr:
    rank = c.fake("input").ndim
    make = relax.op.nn.conv2d if rank == 4 else relax.op.nn.conv3d
    result = c.emit(
        make(
            c["input"],
            c["weight"],
            strides=c["stride"],
            padding=c["padding"],
            dilation=c["dilation"],
            groups=int(c["groups"]),
        )
    )
    if c.bound["bias"] is None:
        return result
    bias = c.emit(relax.op.reshape(c["bias"], [1, -1] + [1] * (rank - 2)))
    return c.emit(relax.op.add(result, bias))


def _check_product(bound: Bound) -> tuple[str, str] | None:
    return _check_floats(bound)


@converts("linear.default", check=_check_product)
def _linear(c: Call) -> Expr:
    turned = c.emit(relax.op.permute_dims(c["weight"], None))
    result = c.emit(relax.op.matmul(c["input"], turned))
    return result if c.bound["bias"] is None else c.emit(relax.op.add(result, c["bias"]))


@converts("matmul.default", check=_check_product)
def _matmul(c: Call) -> Expr:
    return c.emit(relax.op.matmul(c["self"], c["other"]))


@converts("mm.default", "bmm.default", check=_check_product)
def _mm(c: Call) -> Expr:
    return c.emit(relax.op.matmul(c["self"], c["mat2"]))


@converts("mv.default", check=_check_product)
def _mv(c: Call) -> Expr:
    return c.emit(relax.op.matmul(c["self"], c["vec"]))


@converts("addmm.default", check=_check_product)
def _addmm(c: Call) -> Expr:
    return _plus(c, c.emit(relax.op.matmul(c["mat1"], c["mat2"])))


@converts("addmv.default", check=_check_product)
def _addmv(c: Call) -> Expr:
    return _plus(c, c.emit(relax.op.matmul(c["mat"], c["vec"])))


@converts("baddbmm.default", check=_check_product)
def _baddbmm(c: Call) -> Expr:
    return _plus(c, c.emit(relax.op.matmul(c["batch1"], c["batch2"])))


def _plus(c: Call, product: Expr) -> Expr:
    """Beta * self + alpha * product; with beta 0 the summand is not read, NaN or not."""
    dtype = c.result.dtype
    if c["alpha"] != 1:
        product = multiply(c, product, number(c["alpha"], dtype))
    if c["beta"] == 0:
        return product
    summand = c["self"]
    if c["beta"] != 1:
        summand = c.emit(relax.op.multiply(summand, number(c["beta"], dtype)))
    return c.emit(relax.op.add(product, summand))


def _spatial(value: Any, count: int) -> list[int]:
    values = [int(item) for item in (value if isinstance(value, list) else [value])]
    return values * count if len(values) == 1 else values


def _check_max_pool(bound: Bound) -> tuple[str, str] | None:
    space = len(bound.node.meta["val"][0].shape[2:])
    rank = bound.value("self").ndim
    flat = "2d" in str(bound.node.target)
    if any(user.args[1] != 0 and user.users for user in bound.node.users):
        return "whose indices are read", "leave return_indices at False"
    if not bound.value("self").dtype.is_floating_point:
        return "of integers", "convert to float32 first"
    if rank != space + 2 or space != (2 if flat else 3):
        return f"on a tensor of rank {rank}", "add the batch dimension"
    return None


@converts("max_pool2d_with_indices.default", "max_pool3d_with_indices.default",
          check=_check_max_pool)  # fmt: skip
def _max_pool(c: Call) -> Any:
    """The windows are PyTorch's: it drops a window that begins in the padding behind the image."""
    space = c.fake("self").ndim - 2
    kernel = _spatial(c["kernel_size"], space)
    stride = _spatial(c["stride"], space) if c["stride"] else kernel
    padding, dilation = _spatial(c["padding"], space), _spatial(c["dilation"], space)
    return (_pool(c, "max", kernel, stride, padding, dilation, True), None)


def _check_avg_pool(bound: Bound) -> tuple[str, str] | None:
    value, space = bound.value("self"), 2 if "2d" in str(bound.node.target) else 3
    if not value.dtype.is_floating_point:
        return "of integers", "convert to float32 first"
    if value.ndim != space + 2:
        return f"on a tensor of rank {value.ndim}", "add the batch dimension"
    return None


@converts("avg_pool2d.default", "avg_pool3d.default", check=_check_avg_pool)
def _avg_pool(c: Call) -> Expr:
    space = c.fake("self").ndim - 2
    kernel = _spatial(c["kernel_size"], space)
    stride = _spatial(c["stride"], space) if c["stride"] else kernel
    padding, divisor = _spatial(c["padding"], space), c["divisor_override"]
    counted = bool(c["count_include_pad"])
    if divisor is None and not (c["ceil_mode"] and counted):
        return _pool(c, "avg", kernel, stride, padding, [1] * space, counted)
    sums = _window_sums(c, kernel, stride, padding)
    if divisor is not None:
        return c.emit(relax.op.divide(sums, number(float(divisor), c.result.dtype)))
    sizes = torch.ones([1] * c.fake("self").ndim)
    for axis in range(space):
        size, out = int(c.fake("self").shape[axis + 2]), int(c.result.shape[axis + 2])
        starts = torch.arange(out) * stride[axis] - padding[axis]
        ends = torch.minimum(starts + kernel[axis], torch.tensor(size + padding[axis]))
        shape = [1] * c.fake("self").ndim
        shape[axis + 2] = out
        sizes = sizes * (ends - starts).float().view(shape)
    return c.emit(relax.op.divide(sums, relax.const(sizes.numpy(), "float32")))


def _window_sums(c: Call, kernel: list[int], stride: list[int], padding: list[int]) -> Expr:
    """Sums of windows, zeros outside: the average of an image with zeros around it, times size."""
    space = len(kernel)
    pads = _pads(c, kernel, stride, padding, [1] * space)
    widths = [0, 0, 0, 0] + [pads[axis + side * space] for axis in range(space) for side in (0, 1)]
    x = c["self"]
    if any(widths):
        x = c.emit(relax.op.nn.pad(x, widths, "constant", 0.0))
    make = relax.op.nn.avg_pool2d if space == 2 else relax.op.nn.avg_pool3d
    mean = c.emit(make(x, kernel, stride, [0] * space, count_include_pad=True))
    return c.emit(relax.op.multiply(mean, number(float(math.prod(kernel)), c.result.dtype)))


def _pads(
    c: Call, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> list[int]:
    """Padding before and behind, so much that the windows are exactly those of PyTorch."""
    behind = []
    for axis, before in enumerate(padding):
        out, size = int(c.result.shape[axis + 2]), int(c.fake("self").shape[axis + 2])
        reach = (out - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        behind.append(max(0, reach - size - before))
    return [*padding, *behind]


def _pool(
    c: Call,
    kind: str,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    counted: bool,
) -> Expr:
    space = len(kernel)
    pads = _pads(c, kernel, stride, padding, dilation)
    pads = padding if pads[space:] == padding else pads
    make = getattr(relax.op.nn, f"{kind}_pool{space}d")
    return c.emit(
        make(c["self"], kernel, stride, pads, dilation, False, counted)
        if kind == "avg"
        else make(c["self"], kernel, stride, pads, dilation, False)
    )


@converts("_adaptive_avg_pool2d.default", "_adaptive_avg_pool3d.default")
def _adaptive_avg_pool(c: Call) -> Expr:
    x, size = c["self"], [int(value) for value in c["output_size"]]
    if c.fake("self").ndim == len(size) + 1:
        return _windows(c, x, size, 1, relax.op.mean)
    if all(value == 1 for value in size):
        axes = list(range(2, c.fake("self").ndim))
        return c.emit(relax.op.mean(x, axes, keepdims=True))
    return _windows(c, x, size, 2, relax.op.mean)


def _windows(c: Call, x: Expr, size: list[int], first: int, reduce: Any) -> Expr:
    """Adaptive pools: output i takes input floor(i * n / m) up to ceil((i + 1) * n / m).

    One dimension after the other; a mean over equal counts per axis is the mean over the window.
    """
    for number_, out in enumerate(size):
        axis = first + number_
        extent = int(c.fake("self").shape[axis])
        if extent % out == 0:
            shape = list(x.ty.shape.values)
            split = [*shape[:axis], out, extent // out, *shape[axis + 1 :]]
            x = c.emit(reduce(c.emit(relax.op.reshape(x, split)), [axis + 1], keepdims=False))
            continue
        parts = []
        for index in range(out):
            start, end = index * extent // out, -(-(index + 1) * extent // out)
            part = c.emit(relax.op.strided_slice(x, [axis], [start], [end], [1]))
            parts.append(c.emit(reduce(part, [axis], keepdims=True)))
        x = c.emit(relax.op.concat(parts, axis)) if len(parts) > 1 else parts[0]
    return x


def _check_adaptive_max(bound: Bound) -> tuple[str, str] | None:
    if any(user.args[1] != 0 and user.users for user in bound.node.users):
        return "whose indices are read", "leave return_indices at False"
    return None


@converts("adaptive_max_pool2d.default", "adaptive_max_pool3d.default",
          check=_check_adaptive_max)  # fmt: skip
def _adaptive_max_pool(c: Call) -> Any:
    size = [int(value) for value in c["output_size"]]
    return (_windows(c, c["self"], size, c.fake("self").ndim - len(size), relax.op.max), None)


@converts("_native_batch_norm_legit_no_training.default")
def _batch_norm(c: Call) -> Any:
    """Stored statistics: one multiplication and one addition, which `simplify` computes."""
    dtype, channels = c.result.dtype, int(c.fake("input").shape[1])
    given = [
        c[name] if c.bound[name] is not None else relax.const([value] * channels, str(dtype)[6:])
        for name, value in (
            ("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)
        )
    ]  # fmt: skip
    result = c.emit(
        relax.op.nn.batch_norm(c["input"], *given, axis=1, epsilon=float(c["eps"]), training=False)
    )
    return (c.emit(relax.TupleGetItem(result, 0)), None, None)


@converts("_native_batch_norm_legit.no_stats")
def _batch_norm_of_batch(c: Call) -> Any:
    """Batch norm without stored statistics: over the batch and the image."""
    axes = [0, *range(2, c.fake("input").ndim)]
    result = normalised(c, c["input"], axes, float(c["eps"]))
    return (_affine(c, result, [1, -1] + [1] * (c.fake("input").ndim - 2)), None, None)


@converts("native_group_norm.default")
def _group_norm(c: Call) -> Any:
    shape, groups = c.shape_of("input"), int(c["group"])
    split = [shape[0], groups, int(shape[1]) // groups, *shape[2:]]
    grouped = c.emit(relax.op.reshape(c["input"], split))
    result = normalised(c, grouped, list(range(2, len(split))), float(c["eps"]))
    result = c.emit(relax.op.reshape(result, shape))
    return (_affine(c, result, [1, -1] + [1] * (len(shape) - 2)), None, None)


@converts("native_layer_norm.default")
def _layer_norm(c: Call) -> Any:
    shape = [int(size) for size in c["normalized_shape"]]
    rank = c.fake("input").ndim
    axes = list(range(rank - len(shape), rank))
    return (_affine(c, normalised(c, c["input"], axes, float(c["eps"])), shape), None, None)


def normalised(c: Call, x: Expr, axes: list[int], eps: float) -> Expr:
    """(x - mean) / sqrt(variance + eps), in two passes."""
    dtype = c.result.dtype
    off = c.emit(relax.op.subtract(x, c.emit(relax.op.mean(x, axes, keepdims=True))))
    square = c.emit(relax.op.multiply(off, off))
    variance = c.emit(relax.op.mean(square, axes, keepdims=True))
    deviation = relax.op.sqrt(c.emit(relax.op.add(variance, number(eps, dtype))))
    return c.emit(relax.op.divide(off, c.emit(deviation)))


def _affine(c: Call, x: Expr, shape: list[int]) -> Expr:
    for name, operator in (("weight", relax.op.multiply), ("bias", relax.op.add)):
        if c.bound[name] is not None:
            x = c.emit(operator(x, c.emit(relax.op.reshape(c[name], shape))))
    return x


def _check_upsample(bound: Bound) -> tuple[str, str] | None:
    value, result = bound.value("input"), bound.node.meta["val"]
    sizes = zip(value.shape[2:], result.shape[2:], strict=True)
    if value.dtype == torch.float32 and all(new % old == 0 for old, new in sizes):
        return None
    return f"of {value.dtype}", "convert to float32 first"


@converts("upsample_nearest2d.vec", check=_check_upsample)
def _upsample_nearest(c: Call) -> Expr:
    """By whole factors; others have become index_select before."""
    x = c["input"]
    for axis in (2, 3):
        factor = int(c.result.shape[axis]) // int(c.fake("input").shape[axis])
        if factor > 1:
            x = c.emit(relax.op.repeat(x, factor, axis))
    return x
