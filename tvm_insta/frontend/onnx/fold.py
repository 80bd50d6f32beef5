"""Whatever depends on constants alone is computed once, after its size is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from onnx import TensorProto
from onnx.helper import np_dtype_to_tensor_dtype

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.execute import (
    Step,
    Value,
    execute,
    explained,
    in_float64,
    tensor_of,
    without_data,
)
from tvm_insta.frontend.onnx.graph import Array, Graph, Initialiser, Node, is_float
from tvm_insta.frontend.onnx.limits import (
    CONSTANT_BYTES,
    FOLDED_ELEMENTS,
    MACS,
    check_shape,
)
from tvm_insta.frontend.onnx.operators import find
from tvm_insta.frontend.onnx.operators.layers import macs
from tvm_insta.frontend.onnx.operators.quantise import materialised
from tvm_insta.frontend.onnx.operators.registry import Codes, Constant, parse_attributes
from tvm_insta.frontend.onnx.static import Static

_SMALL = 1 << 20
"""Operands whose sizes have a smaller product cannot make anything large by broadcasting."""

_GROW = frozenset({"ConstantOfShape", "Expand", "Pad", "Range", "Resize", "Tile", "Upsample"})


@dataclass
class Folded:
    """A graph whose constants are computed.

    Attributes:
        steps: nodes that depend on an input.
        constants: values that those nodes, or the outputs, read.
    """

    steps: list[Step] = field(default_factory=list)
    constants: dict[str, Constant] = field(default_factory=dict)


def step_of(graph: Graph, node: Node) -> Step:
    """A node with its operator and checked attributes.

    Raises:
        ImportModelError: the operator or an attribute is not taken.
    """
    operator = find(node.domain, node.op)
    assert operator is not None  # `load` has refused the others
    attributes = parse_attributes(operator, node)
    return Step(node, operator, attributes, graph.version(node.domain))


def constant(
    array: Array, element: int = TensorProto.UNDEFINED, doubles: Array | None = None
) -> Constant:
    """A constant with its tensor."""
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return Constant(array, element, tensor, doubles)


def fold(graph: Graph, budget: Budget | None = None) -> Folded:
    """Compute what no input is needed for.

    Args:
        graph: what was read.
        budget: of the graph around it; None for one of its own.

    Raises:
        ImportModelError: a node cannot be computed, or would be too large.
    """
    result = Folded()
    values = {
        name: constant(value.array, value.element, value.doubles)
        for name, value in graph.initialisers.items()
    }
    readers = Counter(name for node in graph.nodes for name in node.inputs if name)
    readers.update(graph.outputs)
    budget = Budget() if budget is None else budget
    for value in values.values():
        budget.take(value)
    for node in graph.nodes:
        with explained(node):
            step = step_of(graph, node)
        if node.branches or any(name and name not in values for name in node.inputs):
            if step.operator.layer:
                _check_weights(node, values)
            result.steps.append(step)
            continue
        with explained(node):
            operands = [values[name] if name else None for name in node.inputs]
            results = _compute(step, operands, budget)
        for name, found in zip(node.outputs, results):  # noqa: B905  (some are not named)
            if name:
                values[name] = found
                budget.take(found)
        for name in node.inputs:
            if name:
                readers[name] -= 1
                if not readers[name]:
                    budget.release(values.pop(name))
                    values[name] = _NOTHING
    used = {name for step in result.steps for name in step.node.inputs} | set(graph.outputs)
    result.constants = {name: value for name, value in values.items() if name in used}
    return result


def _check_weights(node: Node, values: Mapping[str, Constant]) -> None:
    for name in node.inputs:
        array = values[name].array if name in values else None
        if array is not None and is_float(array) and not np.isfinite(array).all():
            raise ImportModelError(
                f"{node}: its constant {name!r} holds numbers that are not finite: the file is "
                "damaged, or training went wrong"
            )


_NOTHING = constant(np.zeros(0, np.float32))
"""Stands for a constant that nobody reads any more."""


@dataclass
class Budget:
    """What constants may still take.

    Attributes:
        alive: bytes of those that are held.
        elements: of all that were computed.
        macs: multiply-accumulates of all that were computed.
    """

    alive: int = 0
    elements: int = 0
    macs: int = 0

    def take(self, value: Constant) -> None:
        """Hold a constant; raises `ImportModelError` where that is too much."""
        self.alive += value.array.nbytes
        if self.alive > CONSTANT_BYTES:
            raise ImportModelError(
                f"the constants of the model take more than {CONSTANT_BYTES} bytes"
            )

    def release(self, value: Constant) -> None:
        """Give a constant back."""
        self.alive -= value.array.nbytes

    def compute(self, elements: int, products: int) -> None:
        """Compute something; raises `ImportModelError` where that is too much."""
        self.elements += elements
        self.macs += products
        if self.elements > FOLDED_ELEMENTS or self.macs > MACS // 4:
            raise ImportModelError("what it computes from constants alone is too large")


def _compute(step: Step, operands: list[Constant | None], budget: Budget) -> list[Constant]:
    sizes = [value.array.size for value in operands if value is not None]
    if step.node.op in _GROW or math.prod(max(size, 1) for size in sizes) > _SMALL:
        _rehearse(step, operands, budget)
    numbers = in_float64(step.node, operands)
    if numbers is not None:
        return [_constant(value, operands, step) for value in numbers]
    with torch.no_grad():
        return [_constant(value, operands, step) for value in execute(step, operands)]


def _rehearse(step: Step, operands: list[Constant | None], budget: Budget) -> None:
    """Execute a node on tensors without data, and refuse what comes out too large."""
    with without_data() as mode:
        fakes: list[Value | None] = [
            None
            if value is None
            else Constant(value.array, value.element, mode.from_tensor(value.tensor))
            for value in operands
        ]
        for found in execute(step, fakes):
            tensor = tensor_of(found)
            if tensor is None:
                continue
            check_shape(list(tensor.shape), "its result")
            products = 0
            if step.operator.layer:
                products = macs(step.node, [tensor_of(fake) for fake in fakes], tensor)
            budget.compute(tensor.numel(), products)


def _constant(value: Value, operands: list[Constant | None], step: Step) -> Constant:
    if isinstance(value, Constant):
        return value
    if isinstance(value, Codes):
        return constant(materialised(value).numpy(), value.element)
    if isinstance(value, Static):
        return constant(np.asarray(value.values()), value.element, value.doubles())
    array = np.ascontiguousarray(value.detach().numpy()).reshape(tuple(value.shape))
    return constant(array, _element(array, operands, step))


def _element(array: Array, operands: list[Constant | None], step: Step) -> int:
    """The element type of a result: what was asked for, else that of an operand held alike."""
    if step.node.op == "Cast" and step.node.domain == "":
        return int(step.attributes["to"])
    filled = step.attributes.get("value")  # of ConstantOfShape
    if isinstance(filled, Initialiser):
        return filled.element
    whole = array.dtype.kind in "iu"  # integers of less than 8 bits are held in bytes
    same = (
        each.element
        for each in operands
        if whole and each is not None and each.array.dtype == array.dtype
    )
    return next(same, int(np_dtype_to_tensor_dtype(array.dtype)))
