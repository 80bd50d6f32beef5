"""ATen -> ONNX: operators that move elements."""

from __future__ import annotations

import torch
from torch import fx

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.write.aten import (
    arguments,
    dtype_of,
    known_shape,
    rank_of,
    rule,
)
from tvm_insta.frontend.onnx.write.graph_writer import GraphWriter, value_of


@rule("view", "reshape", "_unsafe_view", "flatten", "unsqueeze", "squeeze", "unflatten")
def _reshape(writer: GraphWriter, node: fx.Node) -> str:
    x = writer.tensor(node.args[0], dtype_of(node))
    return writer.emit("Reshape", x, writer.ints(*known_shape(node)), at=node)


@rule("permute", "t", "transpose")
def _permute(writer: GraphWriter, node: fx.Node) -> str:
    rank = rank_of(node)
    order = list(range(rank))
    if len(node.args) == 3:
        i, j = (int(axis) % rank for axis in node.args[1:])  # type: ignore[arg-type]
        order[i], order[j] = j, i
    elif len(node.args) == 2:
        order = [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr,arg-type]
    else:
        order.reverse()
    return writer.emit(
        "Transpose", writer.tensor(node.args[0], dtype_of(node)), at=node, perm=order
    )


@rule("cat", "concat")
def _cat(writer: GraphWriter, node: fx.Node) -> str:
    tensors = [writer.tensor(each, dtype_of(node)) for each in node.args[0]]  # type: ignore[union-attr]
    axis = int(arguments(node)["dim"]) % rank_of(node)
    return writer.emit("Concat", *tensors, at=node, axis=axis)


@rule("slice")
def _slice(writer: GraphWriter, node: fx.Node) -> str:
    given = arguments(node)
    numbers = [given["start"] or 0, given["end"], given["step"]]
    numbers[1] = 2**62 if numbers[1] is None else numbers[1]
    if not all(isinstance(number, int) for number in numbers):
        raise ImportModelError(f"{node.name}: a slice whose bounds depend on the batch")
    start, end, step = (writer.ints(number) for number in numbers)
    axis = writer.ints(int(given["dim"]))
    return writer.emit(
        "Slice", writer.tensor(node.args[0], dtype_of(node)), start, end, axis, step, at=node
    )


@rule("select")
def _select(writer: GraphWriter, node: fx.Node) -> str:
    x, axis, index = node.args
    chosen = writer.constant(torch.tensor(index).numpy())
    return writer.emit("Gather", writer.tensor(x, dtype_of(node)), chosen, at=node, axis=axis)


@rule("expand", "expand_as")
def _expand(writer: GraphWriter, node: fx.Node) -> str:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    own = list(value_of(source).shape)
    wanted = list(value_of(node).shape)
    own = [1] * (len(wanted) - len(own)) + own
    sizes = []
    for mine, other in zip(own, wanted, strict=True):
        if not isinstance(other, int) and isinstance(mine, int):
            raise ImportModelError(f"{node.name}: a tensor is expanded to the batch")
        sizes.append(other if isinstance(other, int) else 1)
    return writer.emit(
        "Expand", writer.tensor(source, dtype_of(node)), writer.ints(*sizes), at=node
    )


@rule("pad", "constant_pad_nd")
def _pad(writer: GraphWriter, node: fx.Node) -> str:
    given, dtype, rank = arguments(node), dtype_of(node), rank_of(node)
    if given.get("mode", "constant") != "constant":
        raise ImportModelError(f"{node.name}: only pads of one number are written")
    flat = list(given["pad"])
    before, after = [0] * rank, [0] * rank
    for i in range(len(flat) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = flat[2 * i], flat[2 * i + 1]
    number = writer.tensor(given.get("value") or 0.0, dtype)
    x = writer.tensor(node.args[0], dtype)
    return writer.emit("Pad", x, writer.ints(*before, *after), number, at=node)


_FILL = {"ones": 1.0, "new_ones": 1.0, "ones_like": 1.0}


@rule(
    *("full", "full_like", "new_full", "new_ones", "new_zeros"),
    *("ones", "ones_like", "scalar_tensor", "zeros", "zeros_like"),
)
def _full(writer: GraphWriter, node: fx.Node) -> str:
    given, found = arguments(node), value_of(node)
    if not all(isinstance(size, int) for size in found.shape):
        raise ImportModelError(f"{node.name}: a constant with the size of the batch is not written")
    number = given.get("fill_value", given.get("s"))
    if number is None:
        number = _FILL.get(node.target._schema.name.split("::")[-1], 0.0)  # type: ignore[union-attr]
    return writer.constant(torch.full(tuple(found.shape), number, dtype=found.dtype).numpy())
