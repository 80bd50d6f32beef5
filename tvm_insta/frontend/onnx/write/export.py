"""A PyTorch module -> an ONNX or QONNX model, checked by reading it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import fx, nn

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import trace_and_fold
from tvm_insta.frontend.inputs import random_tensors
from tvm_insta.frontend.onnx.load import load
from tvm_insta.frontend.onnx.module import onnx_module
from tvm_insta.frontend.onnx.write import aten_elementwise, aten_layers, aten_shapes
from tvm_insta.frontend.onnx.write.aten import RULES
from tvm_insta.frontend.onnx.write.graph_writer import GraphWriter, element_of, value_of
from tvm_insta.frontend.onnx.write.qonnx import to_qonnx

_TABLES = (aten_elementwise, aten_layers, aten_shapes)
"""Importing them fills `RULES`."""

_SKIPPED = ("sym_size", "_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size")
_IMAGES = 2
TOLERANCE = 1e-4
"""Of the largest output: sums in another order, and constants folded at other places."""


def export(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    qonnx: bool = False,
    quantised_weights: bool = True,
    properties: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """Write a module as an ONNX model of version 17 with a dynamic batch.

    Constants are folded, layers keep the paths of their modules as node names.

    Args:
        module: any module that torch.export takes.
        example_inputs: one tensor per input, batch first.
        qonnx: spell signs and binary weights as QONNX's BipolarQuant; the batch is 1.
        quantised_weights: store weights of -s, 0 and +s as int8 and a scale per output channel.
        properties: text that the file keeps.

    Raises:
        ImportModelError: torch.export refuses the module, it uses an operator that is not written,
            or the written model gives other results than the module.
    """
    graph = trace_and_fold(module, example_inputs, max_batch=64, dynamic=True)
    model = _written(graph, quantised_weights and not qonnx, dict(properties or {}))
    if qonnx:
        model = to_qonnx(model)
    _check(model, graph, example_inputs, fixed=qonnx)
    return model


def _written(graph: fx.GraphModule, quantised: bool, properties: dict[str, str]) -> onnx.ModelProto:
    writer = GraphWriter(quantised)
    inputs: list[onnx.ValueInfoProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            writer.bind(node, writer.unique(node.name))
            inputs.append(_info(writer.name(node), value_of(node)))
        elif node.op == "get_attr":
            value = value_of(node)
            if isinstance(value, torch.Tensor):
                hint = str(node.target)
                writer.bind(node, writer.constant(value.detach().contiguous().numpy(), hint))
        elif node.op == "call_function":
            _write(writer, node)
        elif node.op == "output":
            for number, result in enumerate(_results(node)):
                name = writer.unique("output" if number == 0 else f"output_{number + 1}")
                writer.nodes.append(
                    helper.make_node("Identity", [writer.name(result)], [name], name=name)
                )
                outputs.append(_info(name, value_of(result)))
    _drop_identities(writer.nodes, {each.name for each in outputs}, {i.name for i in inputs})
    return writer.model(inputs, outputs, properties)


def _write(writer: GraphWriter, node: fx.Node) -> None:
    name = getattr(node.target, "_schema", None)
    short = "" if name is None else name.name.split("::")[-1]
    if isinstance(value_of(node), (int, torch.SymInt)) or short in _SKIPPED:
        return  # arithmetic of the batch: shapes say -1 for it
    if getattr(node.target, "__name__", "") == "getitem" and node.args[1] == 0:
        assert isinstance(node.args[0], fx.Node)
        writer.bind(node, writer.name(node.args[0]))
        return
    found = RULES.get(short)
    if found is None:
        raise ImportModelError(
            f"{node.name}: the operator {node.target} is not written to ONNX: use "
            "torch.onnx.export for this network, and compile what it writes"
        )
    writer.bind(node, found(writer, node))


def _results(node: fx.Node) -> list[fx.Node]:
    (results,) = node.args
    found = list(results) if isinstance(results, (tuple, list)) else [results]
    if not all(isinstance(each, fx.Node) for each in found):
        raise ImportModelError("an output of the network is no tensor")
    return [each for each in found if isinstance(each, fx.Node)]


def _info(name: str, value: torch.Tensor) -> onnx.ValueInfoProto:
    shape = [size if isinstance(size, int) else "batch" for size in value.shape]
    return helper.make_tensor_value_info(name, element_of(value.dtype), shape)


def _drop_identities(nodes: list[onnx.NodeProto], outputs: set[str], inputs: set[str]) -> None:
    """Give the last node of each output its name, where nothing else reads it."""
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    makers = {name: node for node in nodes for name in node.output}
    for node in [n for n in nodes if n.op_type == "Identity" and n.output[0] in outputs]:
        maker = makers.get(node.input[0])
        if maker is not None and readers[node.input[0]] == 1 and node.input[0] not in inputs:
            maker.output[list(maker.output).index(node.input[0])] = node.output[0]
            nodes.remove(node)


def _check(
    model: onnx.ModelProto,
    graph: fx.GraphModule,
    example_inputs: Sequence[torch.Tensor],
    fixed: bool,
) -> None:
    """Read the model back and run it; by ONNX Runtime too, where it is installed.

    Raises:
        ImportModelError: one of them does not take the model, or gives other results.
    """
    with _takes("the checker of onnx"):
        onnx.checker.check_model(model)
    count = 1 if fixed else _IMAGES
    kinds = [((count, *tensor.shape[1:]), tensor.dtype) for tensor in example_inputs]
    inputs = random_tensors(kinds, seed=0)
    interpreter: Any = fx.Interpreter(graph)
    with torch.no_grad():
        wanted = _arrays(interpreter.run(*inputs))
        with _takes("the front end"):
            found = _arrays(onnx_module(load(model))(*inputs))
        _compare(found, wanted, "the front end")
    if not fixed:
        try:
            import onnxruntime
        except ImportError:
            return
        options = onnxruntime.SessionOptions()
        # Its optimisations quantise weights of their own accord.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # what it would print is in the error
        reader = f"ONNX Runtime {onnxruntime.__version__}"
        with _takes(reader):
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            names = [each.name for each in session.get_inputs()]
            found = session.run(None, dict(zip(names, [x.numpy() for x in inputs], strict=True)))
        _compare(found, wanted, reader)


@contextmanager
def _takes(reader: str) -> Iterator[None]:
    """Turn whatever a reader of the written model says against it into one sentence."""
    try:
        yield
    except Exception as error:  # each reader has errors of its own, without a common type
        reason = " ".join(str(error).split()) or type(error).__name__
        if len(reason) > 300:  # ONNX Runtime begins with the node, and ends with what is wrong
            reason = f"{reason[:120]} ... {reason[-150:]}"
        raise ImportModelError(
            f"{reader} does not take the written model ({reason}): please report this network, and "
            "use torch.onnx.export for it"
        ) from error


def _arrays(results: Any) -> list[Any]:
    found = results if isinstance(results, (tuple, list)) else [results]
    return [each.numpy() for each in found]


def _compare(found: Sequence[Any], wanted: Sequence[Any], reader: str) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        if ours.shape != theirs.shape or ours.dtype.kind != theirs.dtype.kind:
            raise ImportModelError(
                f"{reader} makes {ours.dtype} of shape {list(ours.shape)} of the written model, "
                f"but PyTorch {theirs.dtype} of {list(theirs.shape)}: please report this network"
            )
        x, y = ours.astype(np.float64), theirs.astype(np.float64)
        scale = float(np.abs(y, where=np.isfinite(y), out=np.zeros_like(y)).max(initial=1e-30))
        same = (x == y) | (np.isnan(x) & np.isnan(y))  # infinite and undefined results, too
        difference = float(np.abs(np.where(same, 0, x) - np.where(same, 0, y)).max(initial=0))
        if not difference <= TOLERANCE * scale:
            raise ImportModelError(
                f"{reader} reads the written model otherwise than PyTorch computes it (difference "
                f"{difference:.2g} of {scale:.2g}): please report this network"
            )
