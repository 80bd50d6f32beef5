"""Operators of `static` that compute: each result is rounded to the element type that ONNX says.

Python computes in float64 and in integers without end. ONNX Runtime computes floor(10 * 0.7) in
float32, which is 7 where float64 gives 6, so every single result goes through `fitted`.
"""

from __future__ import annotations

import functools
import math
import operator as python
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch.fx.experimental.symbolic_shapes import statically_known_true

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import axis_of
from tvm_insta.frontend.onnx.static import (
    MAX_SIZE,
    SYMBOLS,
    Static,
    axes_of,
    data,
    each,
    fitted,
    rule,
)
from tvm_insta.frontend.onnx.tensors import numpy_type

_FOLDED = frozenset({TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32})
"""Types that a constant may have got because it was computed in them."""


def _common(operands: Sequence[Static]) -> int:
    """The element type of operands: ONNX wants one, but constants of other floats are widened."""
    found = {operand.element for operand in operands}
    if len(found) == 1:
        return found.pop()
    if TensorProto.DOUBLE in found:
        raise ImportModelError(
            "it computes a shape in float64 with a constant that was computed in float32: cast to "
            "float32 inside the network, or give it the result as a constant"
        )
    return max(found, key=lambda element: (element not in _FOLDED, element == TensorProto.INT64))


@rule("Cast")
def _cast(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, element = data(inputs), int(attributes.get("to", 0))
    kind = numpy_type(element, "a cast").kind
    converters: dict[str, Callable[[Any], Any]] = {"f": _real, "b": bool}
    convert = converters.get(kind, math.trunc)
    return Static(each(lambda item: fitted(convert(item), element), x.array), element)


def _real(item: Any) -> Any:
    return item * 1.0 if isinstance(item, torch.SymInt) else item


def _divided(x: Any, y: Any) -> Any:
    """Integers are divided towards 0."""
    if not all(isinstance(item, (int, torch.SymInt)) for item in (x, y)):
        return x / y
    if y < 0:
        x, y = -x, -y
    if not isinstance(x, torch.SymInt):
        return x // y if x >= 0 else -(-x // y)
    if statically_known_true(x >= 0):
        return x // y
    return _larger(x, 0) // y - _larger(-x, 0) // y  # one of both is 0, for every batch


def _remainder(x: Any, y: Any) -> Any:
    """With the sign of ``x``, as C has it."""
    if all(isinstance(item, (int, torch.SymInt)) for item in (x, y)):
        return x - y * _divided(x, y)
    return math.fmod(x, y)


def _larger(x: Any, y: Any) -> Any:
    return torch.sym_max(x, y)  # type: ignore[no-untyped-call]


def _smaller(x: Any, y: Any) -> Any:
    return torch.sym_min(x, y)  # type: ignore[no-untyped-call]


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": python.add,
    "Sub": python.sub,
    "Mul": python.mul,
    "Div": _divided,
    "Mod": python.mod,
    "Max": _larger,
    "Min": _smaller,
}
_LOGIC: dict[str, Callable[[Any, Any], Any]] = {
    "Equal": python.eq,
    "Less": python.lt,
    "LessOrEqual": python.le,
    "Greater": python.gt,
    "GreaterOrEqual": python.ge,
    "And": lambda x, y: bool(x) and bool(y),
    "Or": lambda x, y: bool(x) or bool(y),
}


def _enter_binary(name: str, function: Callable[[Any, Any], Any]) -> None:
    @rule(name, all_data=True)
    def run(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
        operands = [data(inputs, i) for i in range(len(inputs))]
        common = _common(operands)
        element = TensorProto.BOOL if name in _LOGIC else common
        chosen = _remainder if name == "Mod" and attributes.get("fmod", 0) else function
        array = functools.reduce(
            lambda x, y: each(lambda a, b: fitted(chosen(a, b), element), x, y),
            [operand.array for operand in operands],
        )
        return Static(array, element)


for _name, _function in {**_ARITHMETIC, **_LOGIC}.items():
    _enter_binary(_name, _function)


def _whole(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return item
        return function(item) * 1.0

    return run


_UNARY: dict[str, Callable[[Any], Any]] = {
    "Neg": python.neg,
    "Abs": abs,
    "Ceil": _whole(math.ceil),
    "Floor": _whole(math.floor),
    "Round": _whole(round),  # to the even neighbour, as ONNX has it
    "Sqrt": math.sqrt,
    "Not": python.not_,
}


def _enter_unary(name: str, function: Callable[[Any], Any]) -> None:
    @rule(name)
    def run(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
        x = data(inputs)
        return Static(each(lambda item: fitted(function(item), x.element), x.array), x.element)


for _name, _single in _UNARY.items():
    _enter_unary(_name, _single)


@rule("Where", all_data=True)
def _where(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
    condition, x, y = (data(inputs, i) for i in range(3))
    array = each(lambda c, a, b: a if c else b, condition.array, x.array, y.array)
    return Static(array, _common([x, y]))


@rule("Range", all_data=True)
def _range(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
    numbers = [data(inputs, i) for i in range(3)]
    element = _common(numbers)
    start, limit, delta = (number.array.reshape(-1)[0] for number in numbers)
    if any(isinstance(number, SYMBOLS) for number in (start, limit, delta)):
        raise ImportModelError(
            "a Range counts the images of the batch, as torch.onnx writes an assignment to a part "
            "of a tensor: compile the PyTorch module itself, or join the parts with torch.cat there"
        )
    if not delta or abs((limit - start) / delta) > MAX_SIZE:
        raise ImportModelError(f"numbers from {start} to {limit} in steps of {delta} are no shape")
    count = max(math.ceil((limit - start) / delta), 0)  # ONNX Runtime counts in float64
    found = np.empty(count, object)
    for i in range(count):
        found[i] = fitted(start + fitted(i * delta, element), element)
    return Static(found, element)


def _enter_reduction(name: str, function: Callable[[Any, Any], Any]) -> None:
    @rule(name)
    def run(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
        x, axes = data(inputs), axes_of(attributes, inputs)
        rank = x.array.ndim
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return x
        chosen = {axis_of(axis, rank) for axis in axes or range(rank)}
        kept = [axis for axis in range(rank) if axis not in chosen]
        sizes = [x.array.shape[axis] for axis in kept]
        rows = x.array.transpose([*kept, *sorted(chosen)]).reshape(math.prod(sizes), -1)
        if not rows.shape[-1]:
            raise ImportModelError("a shape without numbers is reduced")
        found = np.empty(len(rows), object)
        for i, row in enumerate(rows):
            found[i] = functools.reduce(lambda a, b: fitted(function(a, b), x.element), row)
        if attributes.get("keepdims", 1):
            sizes = [1 if axis in chosen else x.array.shape[axis] for axis in range(rank)]
        return Static(found.reshape(sizes), x.element)


_enter_reduction("ReduceProd", python.mul)
_enter_reduction("ReduceSum", python.add)
_enter_reduction("ReduceMax", _larger)
_enter_reduction("ReduceMin", _smaller)
