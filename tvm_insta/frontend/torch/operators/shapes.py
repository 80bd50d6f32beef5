"""Operators that move elements: reshapes, slices, joins, paddings."""

from __future__ import annotations

import math
from typing import Any

import torch
from tvm import relax

from tvm_insta.frontend.torch.operators.converter import (
    Bound,
    Call,
    Expr,
    converts,
    number,
    relax_type,
    static,
)


@converts(
    "view.default", "reshape.default", "_unsafe_view.default", "unsqueeze.default",
    "squeeze.dim", "squeeze.dims", "squeeze.default", "flatten.using_ints", "unflatten.int",
    "view_as.default", "reshape_as.default",
)  # fmt: skip
def _reshape(c: Call) -> Expr:
    """The shape is PyTorch's own: TVM 0.27's squeeze drops a batch of 1 along with the rest."""
    return c.emit(relax.op.reshape(c["self"], c.shape))


@converts("permute.default")
def _permute(c: Call) -> Expr:
    rank = c.fake("self").ndim
    return c.emit(relax.op.permute_dims(c["self"], [int(axis) % rank for axis in c["dims"]]))


@converts("transpose.int")
def _transpose(c: Call) -> Expr:
    rank = c.fake("self").ndim
    axes = list(range(rank))
    first, second = int(c["dim0"]) % rank, int(c["dim1"]) % rank
    axes[first], axes[second] = axes[second], axes[first]
    return c.emit(relax.op.permute_dims(c["self"], axes))


@converts("t.default")
def _t(c: Call) -> Expr:
    return c.emit(relax.op.permute_dims(c["self"], None)) if c.fake("self").ndim == 2 else c["self"]


@converts("expand.default", "expand_as.default", "broadcast_to.default")
def _expand(c: Call) -> Expr:
    return c.emit(relax.op.broadcast_to(c["self"], c.shape))


def _check_repeat(bound: Bound) -> tuple[str, str] | None:
    repeats, shape = bound["repeats"], bound.value("self").shape
    sizes = [1] * (len(repeats) - len(shape)) + list(shape)
    single = [isinstance(size, int) and size == 1 for size in sizes]
    if all(static([times]) or one for times, one in zip(repeats, single, strict=True)):
        return None
    return "by a number of times that depends on the batch", "expand a dimension of size 1 instead"


@converts("repeat.default", check=_check_repeat)
def _repeat(c: Call) -> Expr:
    """A dimension of size 1 may be repeated for every image, as class tokens are."""
    repeats = c["repeats"]
    times = [int(each) if static([each]) else 1 for each in repeats]
    x = c.emit(relax.op.tile(c["self"], times))
    return x if static(repeats) else c.emit(relax.op.broadcast_to(x, c.shape))


@converts("flip.default")
def _flip(c: Call) -> Expr:
    x = c["self"]
    for axis in c["dims"]:
        x = c.emit(relax.op.flip(x, int(axis) % c.fake("self").ndim))
    return x


@converts("cat.default")
def _cat(c: Call) -> Expr:
    """Parts are converted to the common type; PyTorch ignores parts of shape [0]."""
    dtype = c.result.dtype
    rank = c.result.ndim
    nodes = [node for node in c.bound["tensors"] if node.meta["val"].ndim == rank]
    parts = [c.cast(c.importer.env[node], dtype) for node in nodes]
    axis = int(c["dim"]) % rank
    return parts[0] if len(parts) == 1 else c.emit(relax.op.concat(parts, axis))


@converts("stack.default")
def _stack(c: Call) -> Expr:
    dtype, axis = c.result.dtype, int(c["dim"]) % c.result.ndim
    shape = c.shape
    shape[axis] = 1
    parts = [c.emit(relax.op.reshape(c.cast(part, dtype), shape)) for part in c["tensors"]]
    return parts[0] if len(parts) == 1 else c.emit(relax.op.concat(parts, axis))


def _check_along(bound: Bound) -> tuple[str, str] | None:
    value = bound.value("self")
    axis = bound["dim"] % value.ndim
    if isinstance(value.shape[axis], int):
        return None
    return "along the batch", "leave the images of a batch together"


@converts("split_with_sizes.default", check=_check_along)
def _split(c: Call) -> Any:
    sizes = [int(size) for size in c["split_sizes"]]
    axis = int(c["dim"]) % c.fake("self").ndim
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    if len(sizes) == 1:
        return (c["self"],)
    parts = c.emit(relax.op.split(c["self"], starts[1:], axis))
    return tuple(c.emit(relax.TupleGetItem(parts, index)) for index in range(len(sizes)))


@converts("split.Tensor", "chunk.default", "unbind.int", check=_check_along)
def _pieces(c: Call) -> Any:
    """PyTorch has computed the pieces' shapes; an unbound dimension disappears."""
    fakes = c.node.meta["val"]
    axis = int(c["dim"]) % c.fake("self").ndim
    gone = fakes[0].ndim < c.fake("self").ndim
    pieces, start = [], 0
    for piece in fakes:
        size = 1 if gone else int(piece.shape[axis])
        part = _range(c, c["self"], axis, start, start + size, 1)
        pieces.append(c.emit(relax.op.squeeze(part, [axis])) if gone else part)
        start += size
    return tuple(pieces)


def _range(c: Call, x: Expr, axis: int, start: int, end: int, step: int) -> Expr:
    return c.emit(relax.op.strided_slice(x, [axis], [start], [end], [step]))


def _bounds(start: Any, end: Any, size: int) -> tuple[int, int]:
    """The first and last index of a slice as Python counts them."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(first, last)


def _check_slice(bound: Bound) -> tuple[str, str] | None:
    value = bound.value("self")
    axis = bound["dim"] % value.ndim
    whole = bound["start"] in (None, 0) and bound["end"] in (None, 2**63 - 1) and bound["step"] == 1
    ends = [bound["start"], bound["end"]]
    if whole or (
        isinstance(value.shape[axis], int)
        and all(end is None or isinstance(end, int) for end in ends)
    ):
        return None
    return "along the batch", "leave the images of a batch together"


@converts("slice.Tensor", check=_check_slice)
def _slice(c: Call) -> Expr:
    axis = int(c["dim"]) % c.fake("self").ndim
    size = c.fake("self").shape[axis]
    if not isinstance(size, int):
        return c["self"]
    first, last = _bounds(c["start"], c["end"], size)
    if (first, last, c["step"]) == (0, size, 1):
        return c["self"]
    return _range(c, c["self"], axis, first, last, int(c["step"]))


def _check_select(bound: Bound) -> tuple[str, str] | None:
    if isinstance(bound["index"], int):
        return _check_along(bound)
    return "with an index computed from values", "select with a fixed index"


@converts("select.int", check=_check_select)
def _select(c: Call) -> Expr:
    axis = int(c["dim"]) % c.fake("self").ndim
    index = int(c["index"]) % int(c.fake("self").shape[axis])
    part = _range(c, c["self"], axis, index, index + 1, 1)
    return c.emit(relax.op.reshape(part, c.shape))


@converts("slice_scatter.default", check=_check_slice)
def _slice_scatter(c: Call) -> Expr:
    """The parts around a slice and the slice itself, joined; with a step, element by element."""
    axis = int(c["dim"]) % c.fake("self").ndim
    size = c.fake("self").shape[axis]
    source = c.cast(c["src"], c.result.dtype)
    if not isinstance(size, int):
        return source
    first, last = _bounds(c["start"], c["end"], size)
    step = int(c["step"])
    parts: list[Expr] = []
    position = 0
    for number_, index in enumerate(range(first, last, step)):
        if step == 1:
            break
        if index > position:
            parts.append(_range(c, c["self"], axis, position, index, 1))
        parts.append(_range(c, source, axis, number_, number_ + 1, 1))
        position = index + 1
    if step == 1 and last > first:
        if first > 0:
            parts.append(_range(c, c["self"], axis, 0, first, 1))
        parts.append(source)
        position = last
    if position < size:
        parts.append(_range(c, c["self"], axis, position, size, 1))
    return parts[0] if len(parts) == 1 else c.emit(relax.op.concat(parts, axis))


@converts("select_scatter.default", check=_check_select)
def _select_scatter(c: Call) -> Expr:
    axis = int(c["dim"]) % c.fake("self").ndim
    size = int(c.fake("self").shape[axis])
    index = int(c["index"]) % size
    shape = c.shape
    shape[axis] = 1
    parts = [c.emit(relax.op.reshape(c.cast(c["src"], c.result.dtype), shape))]
    if index > 0:
        parts.insert(0, _range(c, c["self"], axis, 0, index, 1))
    if index + 1 < size:
        parts.append(_range(c, c["self"], axis, index + 1, size, 1))
    return parts[0] if len(parts) == 1 else c.emit(relax.op.concat(parts, axis))


@converts("copy.default")
def _copy(c: Call) -> Expr:
    source = c.cast(c["src"], c.result.dtype)
    if c.fake("src").shape == c.result.shape:
        return source
    return c.emit(relax.op.broadcast_to(source, c.shape))


@converts("constant_pad_nd.default")
def _constant_pad(c: Call) -> Expr:
    """Negative widths cut, as in PyTorch."""
    x, pads, rank = c["self"], [int(width) for width in c["pad"]], c.fake("self").ndim
    widths = [0] * (2 * rank)
    for index in range(len(pads) // 2):
        axis = rank - 1 - index
        before, after = pads[2 * index], pads[2 * index + 1]
        if min(before, after) < 0:
            size = int(c.fake("self").shape[axis])
            x = _range(c, x, axis, max(0, -before), size - max(0, -after), 1)
        widths[2 * axis : 2 * axis + 2] = [max(0, before), max(0, after)]
    if not any(widths):
        return x
    dtype = c.result.dtype
    if dtype == torch.float32:
        return c.emit(relax.op.nn.pad(x, widths, "constant", float(c["value"])))
    return _joined(c, x, widths, number(c["value"], dtype))


def _joined(c: Call, x: Expr, widths: list[int], value: Expr) -> Expr:
    """Padding by joining constants: relax.nn.pad knows only float values."""
    for axis in range(len(widths) // 2):
        parts = [x]
        for at, width in ((0, widths[2 * axis]), (1, widths[2 * axis + 1])):
            if width:
                shape = list(x.ty.shape.values)
                shape[axis] = width
                block = c.emit(relax.op.full(shape, value, str(value.ty.dtype.dtype)))
                parts.insert(0 if at == 0 else len(parts), block)
        if len(parts) > 1:
            x = c.emit(relax.op.concat(parts, axis))
    return x


@converts("full.default", "full_like.default", "scalar_tensor.default", "fill.Scalar")
def _full(c: Call) -> Expr:
    arguments = c.bound.arguments
    name = next(name for name in ("fill_value", "s", "value") if name in arguments)
    return _filled(c, c[name])


@converts("zeros.default", "zeros_like.default", "new_zeros.default",
          "empty.memory_format", "empty_permuted.default", "empty_like.default")  # fmt: skip
def _zeros(c: Call) -> Expr:
    return _filled(c, 0)


@converts("ones.default", "ones_like.default", "new_ones.default")
def _ones(c: Call) -> Expr:
    return _filled(c, 1)


def _filled(c: Call, value: Any) -> Expr:
    constant = number(value, c.result.dtype)
    if c.result.ndim == 0:
        return c.emit(constant)
    return c.emit(relax.op.full(c.shape, constant, relax_type(c.result.dtype)))


@converts("arange.start_step")
def _arange(c: Call) -> Expr:
    values = torch.arange(c["start"], c["end"], c["step"], dtype=c.result.dtype)
    return c.emit(relax.const(values.numpy(), relax_type(c.result.dtype)))


@converts("diagonal.default")
def _diagonal(c: Call) -> Expr:
    """Picked from the flattened pair of dimensions."""
    rank = c.fake("self").ndim
    first, second = int(c["dim1"]) % rank, int(c["dim2"]) % rank
    order = [axis for axis in range(rank) if axis not in (first, second)] + [first, second]
    turned = c.emit(relax.op.permute_dims(c["self"], order))
    shape = c.shape_of("self")
    rows, columns = int(shape[first]), int(shape[second])
    flat = c.emit(relax.op.reshape(turned, [*(shape[axis] for axis in order[:-2]), rows * columns]))
    picked = torch.arange(rows * columns).view(rows, columns).diagonal(int(c["offset"]))
    return c.emit(
        relax.op.take(flat, relax.const(picked.numpy(), "int64"), axis=rank - 2, mode="clip")
    )


@converts("sym_size.int")
def _sym_size(c: Call) -> Any:
    return c.shape_of("self")[int(c["dim"])]


def pixels(shape: list[Any]) -> int:
    """Number of elements behind the first two dimensions."""
    return math.prod(int(size) for size in shape[2:])
