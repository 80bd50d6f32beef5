"""What an ONNX graph is written with: nodes in order, constants once each, unique names."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import Array
from tvm_insta.frontend.torch.origin import module_path

OPSET = 17
"""Of the written files: new enough for every operator used, old enough for every runtime."""

ELEMENT: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}
"""ONNX element type by PyTorch's."""


def element_of(dtype: torch.dtype) -> int:
    """The ONNX element type of a tensor.

    Raises:
        ImportModelError: a type that is not written.
    """
    if dtype not in ELEMENT:
        known = ", ".join(str(each).removeprefix("torch.") for each in ELEMENT)
        raise ImportModelError(
            f"the network computes in {str(dtype).removeprefix('torch.')}, but only {known} are "
            "written: convert it with module.float()"
        )
    return ELEMENT[dtype]


class GraphWriter:
    """Collects the nodes and constants of one graph.

    Attributes:
        nodes: in order.
        constants: arrays by name.
    """

    def __init__(self, quantised: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._names: dict[fx.Node, str] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        """Constants by type, shape and digest: their bytes would be kept twice."""
        self._weights: dict[tuple[str, int], str] = {}
        self._taken: set[str] = set()
        self._quantised = quantised

    # -- names -----------------------------------------------------------------------------------

    def unique(self, hint: str) -> str:
        """A name that nothing has yet."""
        name, number = hint, 1
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name

    def bind(self, node: fx.Node, name: str) -> None:
        """Say which tensor a node of the PyTorch graph is."""
        self._names[node] = name

    def name(self, node: fx.Node) -> str:
        """The tensor of a node."""
        return self._names[node]

    # -- building --------------------------------------------------------------------------------

    def constant(self, value: Any, hint: str = "constant") -> str:
        """The name of a constant; equal ones are stored once."""
        array = np.ascontiguousarray(value)
        array = array.reshape(np.shape(value))
        key = (array.dtype.str, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._known:
            self._known[key] = self.unique(hint)
            self.constants[self._known[key]] = array
        return self._known[key]

    def ints(self, *values: int) -> str:
        """The name of a constant list of integers."""
        return self.constant(np.array(values, np.int64), "shape")

    def emit(self, op: str, *inputs: str, at: fx.Node | None = None, **attributes: Any) -> str:
        """Add a node; returns the name of its result."""
        path = "" if at is None else layer_path(at)
        base = path or (at.name if at is not None else op.lower())
        output = self.unique(at.name if at is not None else op.lower())
        domain = attributes.pop("domain", "")
        name = self.unique(base if path else f"{base}/{op}")
        made = helper.make_node(op, list(inputs), [output], name=name, domain=domain, **attributes)
        self.nodes.append(made)
        return output

    def tensor(self, arg: Any, dtype: torch.dtype) -> str:
        """The name of an operand, cast to ``dtype`` where it has another one."""
        if isinstance(arg, fx.Node):
            found = value_of(arg)
            if not isinstance(found, torch.Tensor):
                raise ImportModelError(
                    f"{arg.name} is a dimension of the batch that is computed with: give the "
                    "network fixed numbers"
                )
            if found.dtype == dtype:
                return self.name(arg)
            if arg.op == "get_attr":
                return self.constant(found.detach().to(dtype).numpy())
            return self.emit("Cast", self.name(arg), to=element_of(dtype))
        if isinstance(arg, torch.Tensor):
            return self.constant(arg.detach().to(dtype).numpy())
        return self.constant(torch.tensor(arg, dtype=dtype).numpy())

    def weight(self, arg: fx.Node, axis: int) -> str:
        """A weight; one of -s, 0, +s per output channel as int8 and a scale, if that is wished."""
        value = value_of(arg)
        split = _ternary(value.detach().numpy(), axis) if arg.op == "get_attr" else None
        if split is None or not self._quantised:
            return self.name(arg)
        key = (self.name(arg), axis)
        if key not in self._weights:
            signs, scale = split
            hint = self.name(arg)
            self._weights[key] = self.emit(
                "DequantizeLinear",
                self.constant(signs, f"{hint}_sign"),
                self.constant(scale, f"{hint}_scale"),
                self.constant(np.zeros(scale.shape, np.int8), f"{hint}_zero"),
                axis=axis,
            )
        return self._weights[key]

    def model(
        self,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        properties: dict[str, str],
    ) -> onnx.ModelProto:
        """The graph as a model: constants that nobody reads are left out."""
        read = {name for node in self.nodes for name in node.input}
        read |= {output.name for output in outputs}
        stored = [
            numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
            if name in read
        ]
        graph = helper.make_graph(self.nodes, "tvm_insta", inputs, outputs, stored)
        made = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=8,
            producer_name="tvm_insta",
        )
        helper.set_model_props(made, properties)
        return made


def value_of(node: fx.Node) -> Any:
    """What a node of the PyTorch graph gives: a constant, or a tensor without data."""
    if node.op == "get_attr":
        found: Any = node.graph.owning_module
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found
    return node.meta.get("val")


def layer_path(node: fx.Node) -> str:
    """The module that a layer belongs to, "" for other operators."""
    name = str(node.target).split(".")[1] if node.op == "call_function" else ""
    return module_path(node) if name in LAYERS else ""


LAYERS = ("conv1d", "conv2d", "conv3d", "convolution", "linear", "addmm", "mm", "matmul")
"""Names of ATen's convolutions and products."""


def _ternary(weight: Array, axis: int) -> tuple[Array, Array] | None:
    """Signs (int8) and one positive scale per channel, None if they do not give the same bits."""
    if weight.dtype != np.float32 or weight.ndim < 2 or not weight.any():
        return None
    moved = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    scale = np.abs(moved).max(axis=1)
    scale = np.where(scale > 0, scale, np.float32(1))
    shape = [1] * weight.ndim
    shape[axis] = -1
    signs = np.sign(weight).astype(np.int8)
    exact = signs * scale.reshape(shape) == weight
    return (signs, scale.astype(np.float32)) if exact.all() else None
