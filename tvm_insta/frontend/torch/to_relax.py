"""The rewritten graph becomes Relax, node by node, by converters of ATen's operators and ours."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax

from tvm_insta import ops
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.export import one_line
from tvm_insta.frontend.torch.graph import constant, name_of
from tvm_insta.frontend.torch.operators import CONVERTERS
from tvm_insta.frontend.torch.operators.converter import Convert, Importer, relax_type
from tvm_insta.frontend.torch.operators.symbols import SYMBOLIC


def to_relax(graph: fx.GraphModule, *, max_batch: int) -> tvm.IRModule:
    """Convert a graph of ATen operators and of ours, all of them in the tables.

    Args:
        graph: after `prepare`; every node has its fake value in ``meta["val"]``.
        max_batch: the upper bound of a symbolic batch.

    Returns:
        A module whose function "main" takes the inputs under their names, and returns a tensor, or
        a tuple where the graph returns several.

    Raises:
        ImportModelError: Relax refuses what a converter gives.
    """
    try:
        return _Translation(graph, max_batch).module()
    except ImportModelError:
        raise
    except Exception as error:  # Relax raises many unrelated types
        raise ImportModelError(
            f"the exported module uses something that Relax cannot take ({one_line(error)}): "
            "rewrite that part with plain convolutions, products, pools and elementwise operators"
        ) from error


class _Translation:
    """One graph on its way to Relax: what the converters see.

    Attributes:
        env: the Relax expression of each node that was converted; a list for several results.
        block_builder: TVM's, in the dataflow block of "main".
    """

    def __init__(self, graph: fx.GraphModule, max_batch: int) -> None:
        self.graph = graph.graph
        self.max_batch = max_batch
        self.env: dict[fx.Node, Any] = {}
        self.block_builder = relax.BlockBuilder()
        self._sizes: dict[str, tvm.tirx.Var] = {}

    def module(self) -> tvm.IRModule:
        """Convert all nodes."""
        inputs = [self._input(node) for node in self.graph.nodes if node.op == "placeholder"]
        bounds = {
            "tir_var_lower_bound": dict.fromkeys(self._sizes, 1),
            "tir_var_upper_bound": dict.fromkeys(self._sizes, self.max_batch),
        }
        build = self.block_builder
        with build.function("main", inputs, attrs=bounds if self._sizes else {}):
            with build.dataflow():
                for node in self.graph.nodes:
                    if node.op == "get_attr":
                        self.env[node] = _constant(node)
                    elif node.op == "call_function":
                        self.env[node] = _converter(node)(node, self)
                (results,) = self.graph.output_node().args
                result = build.emit_output(self._result(results))
            build.emit_func_output(result)
        return build.get()

    def _input(self, node: fx.Node) -> relax.Var:
        value = node.meta["val"]
        shape = [self._size(size) for size in value.shape]
        self.env[node] = relax.Var(node.name, relax.TensorType(shape, relax_type(value.dtype)))
        return self.env[node]

    def _size(self, size: int | torch.SymInt) -> Any:
        if isinstance(size, int):
            return size
        name = str(size.node.expr)
        return self._sizes.setdefault(name, tvm.tirx.Var(name, "int64"))

    def _result(self, results: Any) -> relax.Expr:
        """The output: a tensor, or a flat tuple of tensors."""
        flat: list[fx.Node] = []
        fx.map_arg(results, flat.append)
        if len(flat) == 1:
            return self.env[flat[0]]
        return relax.Tuple([self.env[each] for each in flat])


def _constant(node: fx.Node) -> relax.Expr:
    value = constant(node)
    if value is None:
        raise ImportModelError(f"the constant {node.target} of the exported module is no tensor")
    value = value.cpu().contiguous()
    return relax.const(value.numpy(), relax_type(value.dtype))


def _converter(node: fx.Node) -> Convert:
    found = _OURS.get(name_of(node)) or CONVERTERS.get(name_of(node)) or SYMBOLIC.get(node.target)  # type: ignore[arg-type]
    if found is None:
        raise ImportModelError(f"{node.name}: the operator {node.target} has no converter")
    return found


def _levels(node: fx.Node, importer: Importer) -> relax.Expr:
    source, thresholds, base, step, compare, nan, last, site = node.args
    build, x = importer.block_builder, importer.env[source]
    own = list(x.ty.shape.values)
    shape = _as_pixels(own) if last else own
    args = []
    for each in thresholds:  # type: ignore[union-attr]
        threshold = importer.env[each]
        dims = list(threshold.ty.shape.values)
        if len(dims) > 0 and len(shape) != len(own):
            padded = _as_pixels([1] * (len(own) - len(dims)) + dims)
            threshold = build.emit(relax.op.reshape(threshold, padded))
        args.append(threshold)
    if len(shape) != len(own):
        x = build.emit(relax.op.reshape(x, shape))
    made = ops.levels(
        x,
        *args,
        base=base,
        step=step,
        compare=compare,
        layout="NHWC" if last else "NCHW",
        nan=nan,
        site=site,
    )
    result = build.emit(made)
    return result if len(shape) == len(own) else build.emit(relax.op.reshape(result, own))


def _as_pixels(shape: Sequence[Any]) -> list[Any]:
    """``[N, ..., C]`` as the image ``[N, 1, T, C]`` of its vectors, ``[C]`` as one vector."""
    if len(shape) == 1:
        return [1, *shape]
    if len(shape) in (2, 4):
        return list(shape)
    if not all(isinstance(dim, (int, tvm.tirx.IntImm)) for dim in shape[1:]):
        return [reduce(operator.mul, shape[:-1]), shape[-1]]  # the batch is among the vectors
    return [shape[0], 1, math.prod(int(dim) for dim in shape[1:-1]), shape[-1]]


def _convolution(node: fx.Node, importer: Importer) -> relax.Expr:
    data, weight, stride, padding, dilation, groups, layer = node.args
    return importer.block_builder.emit(
        ops.convolution(
            importer.env[data],
            importer.env[weight],
            strides=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            layers=[str(layer)],
        )
    )


def _linear(node: fx.Node, importer: Importer) -> relax.Expr:
    source, weight_node, layer = node.args
    build = importer.block_builder
    data, weight = importer.env[source], importer.env[weight_node]
    shape = list(data.ty.shape.values)
    out, channels = weight.ty.shape.values
    rows = _as_pixels(shape)
    if len(shape) != 2:
        data = build.emit(relax.op.reshape(data, rows))
    if len(rows) == 2:
        turned = build.emit(relax.op.permute_dims(weight, None))
        result = build.emit(ops.dense(data, turned, layers=[str(layer)]))
        return (
            result if len(shape) == 2 else build.emit(relax.op.reshape(result, [*shape[:-1], out]))
        )
    kernel = build.emit(relax.op.reshape(weight, [out, 1, 1, channels]))
    result = build.emit(ops.conv2d(data, kernel, layers=[str(layer)]))
    return build.emit(relax.op.reshape(result, [*shape[:-1], out]))


def _matmul(node: fx.Node, importer: Importer) -> relax.Expr:
    left, right, _ = node.args
    product = relax.op.matmul(importer.env[left], importer.env[right], out_dtype="float32")
    return importer.block_builder.emit(product)


def _product(node: fx.Node, importer: Importer) -> relax.Expr:
    *sides, layer = node.args
    build = importer.block_builder
    left, right = (importer.env[side] for side in sides)
    shapes = [list(side.ty.shape.values) for side in (left, right)]
    flat = len(shapes[0]) == 3
    if flat:
        left, right = (
            build.emit(relax.op.reshape(side, _as_pixels(shape)))
            for side, shape in zip((left, right), shapes, strict=True)
        )
    result = build.emit(ops.product(left, right, layers=[str(layer)]))
    own = [*shapes[0][:-1], shapes[1][-2]]
    return build.emit(relax.op.reshape(result, own)) if flat else result


def _round_half(node: fx.Node, importer: Importer) -> relax.Expr:
    source, to = node.args
    return importer.block_builder.emit(ops.round_half(importer.env[source], to=to))


_OURS: dict[str, Convert] = {
    "tvm_insta.levels.default": _levels,
    "tvm_insta.convolution.default": _convolution,
    "tvm_insta.linear.default": _linear,
    "tvm_insta.matmul.default": _matmul,
    "tvm_insta.product.default": _product,
    "tvm_insta.round_half.default": _round_half,
}
