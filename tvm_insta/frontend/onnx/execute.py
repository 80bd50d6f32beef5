"""One node, executed: operands are handed over as its operator wants them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx import static, static_numbers
from tvm_insta.frontend.onnx.graph import Node
from tvm_insta.frontend.onnx.limits import SHAPE_NUMBERS
from tvm_insta.frontend.onnx.operators.quantise import materialised
from tvm_insta.frontend.onnx.operators.registry import (
    Codes,
    Constant,
    Context,
    Operator,
    Parameter,
)
from tvm_insta.frontend.onnx.static import Static
from tvm_insta.frontend.onnx.tensors import torch_type

_RULES = (static, static_numbers)
"""Importing them fills the table of rules."""

Value = Tensor | Constant | Static | Codes
"""What a name of the graph stands for while it is executed."""


@dataclass(frozen=True)
class Step:
    """A node, ready to be executed.

    Attributes:
        node: what the file says.
        operator: what it means.
        attributes: keyword arguments, checked.
        opset: version of the node's domain.
    """

    node: Node
    operator: Operator
    attributes: Mapping[str, Any]
    opset: int


def execute(
    step: Step, values: Sequence[Value | None], batch: tuple[int, int] | None = None
) -> tuple[Value, ...]:
    """The results of a node.

    Args:
        step: the node.
        values: of its inputs; None for those that are not given.
        batch: see `Context`.

    Raises:
        ImportModelError: inputs are missing or do not fit; PyTorch's own errors pass as they are.
    """
    node = step.node
    outputs = max((i + 1 for i, name in enumerate(node.outputs) if name), default=0)
    if node.op == "Shape" and node.domain == "":
        return (_shape(step, values),)
    if node.op == "Size" and node.domain == "":
        array = np.empty((), object)
        array[()] = math.prod(_dims(values[0]))
        return (Static(array),)
    if node.domain == "" and static.applies(node.op, values):
        found = _numbers(node, values, outputs)
        if found is not None:
            return found
    arguments = list(_arguments(step.operator, values))
    keywords = dict(step.attributes)
    if step.operator.wants_context:
        keywords["context"] = Context(step.opset, outputs, batch)
    result = step.operator.run(*arguments, **keywords)
    results = result if isinstance(result, tuple) else (result,)
    if len(results) < outputs:
        raise ImportModelError(f"it has {outputs} outputs, but {len(results)} are known")
    return results


@contextmanager
def explained(node: Node) -> Iterator[None]:
    """Turn whatever goes wrong in a node into one sentence about it.

    Raises:
        ImportModelError: with the node's name and operator in front.
    """
    try:
        yield
    except ImportModelError as error:
        text = str(error)
        raise ImportModelError(text if text.startswith("node ") else f"{node}: {text}") from error
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        text = str(error).strip() or type(error).__name__
        raise ImportModelError(
            f"{node}: its inputs or attributes do not fit ({text.splitlines()[0][:200]})"
        ) from error


@contextmanager
def without_data() -> Iterator[FakeTensorMode]:
    """Tensors have shapes and types only: what is executed here takes no memory and no time."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it prints tracebacks of what becomes one sentence here
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            yield mode
    finally:
        log.setLevel(level)


def _shape(step: Step, values: Sequence[Value | None]) -> Static:
    start = int(step.node.attributes.get("start", 0))
    end = step.node.attributes.get("end")
    return static.shape_of(_dims(values[0]), start, None if end is None else int(end))


def _dims(value: Value | None) -> Sequence[Any]:
    if value is None:
        raise ImportModelError("its input is missing")
    if isinstance(value, Tensor):
        return list(value.shape)
    if isinstance(value, Codes):
        return list(value.values.shape)
    return value.array.shape


def in_float64(node: Node, values: Sequence[Constant | None]) -> tuple[Static, ...] | None:
    """Few numbers of float64, which shapes may be made of, computed in that type.

    Returns:
        The results; None for other numbers, which float32 is good enough for, and for operators
        that have no rule.
    """
    given = [value for value in values if value is not None]
    elements = {value.element for value in given}
    if node.op == "Cast":
        elements.add(int(node.attributes.get("to", 0)))
    few = all(value.array.size <= SHAPE_NUMBERS for value in given)
    if node.domain != "" or not given or not few or TensorProto.DOUBLE not in elements:
        return None
    return _numbers(node, values, len(node.outputs))


def _numbers(node: Node, values: Sequence[Value | None], outputs: int) -> tuple[Static, ...] | None:
    """The results of a node whose inputs are all known as numbers, None if they are not."""
    rule = static.find(node.op)
    numbers = [_static(value) for value in values]
    pairs = zip(numbers, values, strict=True)
    if rule is None or any(given is None and value is not None for given, value in pairs):
        return None
    found = rule(node.attributes, outputs, numbers)
    return tuple(found) if isinstance(found, list) else (found,)


def _static(value: Value | None) -> Static | None:
    if isinstance(value, Constant) and value.array.size <= static.MAX_SIZE:
        return static.static(value.exact, value.element)
    return value if isinstance(value, Static) else None


def _arguments(operator: Operator, values: Sequence[Value | None]) -> Iterator[Any]:
    given = list(values)
    while given and given[-1] is None:
        given.pop()
    if operator.variadic is None and len(given) > len(operator.inputs):
        raise ImportModelError(
            f"it has {len(given)} inputs, but at most {len(operator.inputs)} are taken"
        )
    ranks = [len(_dims(value)) for value in given if isinstance(value, (Tensor, Codes))]
    rank = max(ranks, default=-1)
    operands = [
        value
        for value, parameter in zip(given, operator.inputs, strict=False)
        if value is not None and parameter.kind in ("tensor", "number", "codes")
    ]
    for index, parameter in enumerate(operator.inputs):
        value = given[index] if index < len(given) else None
        if value is None:
            if not parameter.optional:
                raise ImportModelError(f"its input {parameter.name!r} is missing")
            yield None
        else:
            yield _argument(parameter, value, rank, operands)
    for value in given[len(operator.inputs) :]:
        if value is None:
            raise ImportModelError("an input is missing")
        yield _tensor(value)
    if operator.variadic is not None and not given:
        raise ImportModelError("it has no input")


def _argument(parameter: Parameter, value: Value, rank: int, operands: Sequence[Value]) -> Any:
    if parameter.kind == "codes" and isinstance(value, Codes):
        return value
    if parameter.kind in ("constant", "shape"):
        if isinstance(value, Constant):
            return value
        if isinstance(value, Static) and value.known and parameter.kind == "constant":
            array = value.values()
            return Constant(array, value.element, torch.from_numpy(np.asarray(array)))
        if parameter.kind == "constant":
            raise ImportModelError(f"its input {parameter.name!r} is computed from the input")
    if parameter.kind in ("ints", "shape"):
        return _ints(parameter, value)
    if parameter.kind == "number" and isinstance(value, Constant):
        number = _number(value, rank, operands)
        if number is not None:
            return number
    return _tensor(value)


def _number(value: Constant, rank: int, operands: Sequence[Value]) -> float | int | None:
    """A constant of one element as a number, where that changes neither shape nor type."""
    if value.array.size != 1 or value.array.ndim > rank or value.array.dtype.kind not in "if":
        return None
    if any(isinstance(other, Codes) for other in operands):
        return float(value.array.reshape(-1)[0])
    for other in operands:
        dtype = _tensor(other).dtype
        if dtype not in (torch.bool, value.tensor.dtype):
            return None
    number: float | int = value.array.reshape(-1)[0].item()
    # PyTorch makes float32 of a float, and int64 of an int, where there is no tensor to go by.
    return number if value.tensor.dtype in (torch.float32, torch.int64) else None


def _ints(parameter: Parameter, value: Value) -> tuple[int, ...]:
    if isinstance(value, (Constant, Static)):
        if value.array.size > static.MAX_SIZE:
            raise ImportModelError(f"its input {parameter.name!r} has too many numbers")
        items = value.array.reshape(-1).tolist()
        if isinstance(value, Constant) and value.array.dtype.kind not in "iu":
            raise ImportModelError(f"its input {parameter.name!r} must hold integers")
        return tuple(items)
    raise ImportModelError(
        f"its input {parameter.name!r} is computed from the input, but shapes, axes and counts "
        "must be constants, or depend on the batch alone"
    )


def tensor_of(value: Value | None) -> Tensor | None:
    """The tensor that holds a value; None for shapes, and where there is none."""
    if isinstance(value, Constant):
        return value.tensor
    if isinstance(value, Codes):
        return value.values
    return value if isinstance(value, Tensor) else None


def _tensor(value: Value) -> Tensor:
    if isinstance(value, Constant):
        return value.tensor
    if isinstance(value, Codes):
        return materialised(value)
    if isinstance(value, Static):
        if value.known:
            return torch.from_numpy(np.asarray(value.values()))
        flat = [
            torch.full((), item, dtype=torch_type(value.element, "a shape"))
            for item in value.array.reshape(-1)
        ]
        return torch.stack(flat).reshape(value.array.shape)
    return value
