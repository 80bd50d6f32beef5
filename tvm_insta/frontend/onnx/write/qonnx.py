"""Standard operators -> QONNX: signs become BipolarQuant, and so do weights of one magnitude."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_insta.frontend.onnx.graph import Array
from tvm_insta.frontend.onnx.load import QONNX

_LAYERS = ("Conv", "Gemm", "MatMul")


def to_qonnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in QONNX's spelling, for one image: its tools want fixed shapes.

    ``Where(x >= t, 1, -1)`` becomes ``BipolarQuant(x - t)``, which takes the same signs: a float32
    difference is 0 only where both numbers are equal, and has the sign of the true one.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    added: dict[str, Array] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Where" and _is_sign(node, makers, arrays):
            nodes += _signs(node, makers[node.input[0]], added)
            continue
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            # QONNX's clean-up renames only one of two equal inputs.
            twin = f"{node.output[0]}_twin"
            nodes.append(helper.make_node("Identity", [node.input[0]], [twin], name=twin))
            node.input[1] = twin
        if node.op_type in _LAYERS and node.input[1] in arrays:
            nodes += _weight(node, arrays[node.input[1]], added)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(_alive(nodes, {output.name for output in graph.output}))
    read = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in added.items())
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    result.opset_import.append(helper.make_opsetid(QONNX, 1))
    return result


def _is_sign(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], arrays: dict[str, Array]
) -> bool:
    """Whether a node is +1 where ``x >= t``, else -1."""
    ends = [arrays.get(name) for name in node.input[1:]]
    maker = makers.get(node.input[0])
    return (
        maker is not None
        and maker.op_type == "GreaterOrEqual"
        and all(end is not None and end.size == 1 for end in ends)
        and [float(end.reshape(-1)[0]) for end in ends if end is not None] == [1.0, -1.0]
    )


def _signs(
    node: onnx.NodeProto, comparison: onnx.NodeProto, added: dict[str, Array]
) -> list[onnx.NodeProto]:
    added["qonnx_one"] = np.array(1, np.float32)
    difference = f"{node.output[0]}_difference"
    return [
        helper.make_node("Sub", list(comparison.input), [difference], name=difference),
        helper.make_node(
            "BipolarQuant", [difference, "qonnx_one"], list(node.output), node.name, domain=QONNX
        ),
    ]


def _weight(node: onnx.NodeProto, weight: Array, added: dict[str, Array]) -> list[onnx.NodeProto]:
    """BipolarQuant in front of a weight whose output channels have one magnitude each."""
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else weight.ndim - 1
    moved = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    scale = np.abs(moved).max(axis=1)
    if weight.dtype != np.float32 or not (np.abs(moved) == scale[:, None]).all() or not scale.all():
        return []
    shape = [1] * weight.ndim
    shape[axis] = -1
    name = node.input[1]
    added[f"{name}_magnitude"] = scale.reshape(shape)
    output = f"{name}_bipolar_{node.output[0]}"
    node.input[1] = output
    inputs = [name, f"{name}_magnitude"]
    return [helper.make_node("BipolarQuant", inputs, [output], name=output, domain=QONNX)]


def _alive(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Without nodes whose results nobody reads."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    return kept[::-1]
