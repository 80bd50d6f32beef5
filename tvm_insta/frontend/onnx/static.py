"""Computations on shapes: Python numbers, some of them symbolic, in the order of ONNX's operators.

``Shape`` gives such a tensor; what is made of it stays one as long as only operators of this table
touch it. So `torch.export` sees the arithmetic of a dynamic batch as arithmetic of its symbol, not
as data.
"""

from __future__ import annotations

import functools
import math
import operator as python
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import Array, Initialiser
from tvm_insta.frontend.onnx.operators.registry import axis_of
from tvm_insta.frontend.onnx.tensors import numpy_type

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
MAX_SIZE = 1 << 16


@dataclass(frozen=True)
class Static:
    """A tensor of numbers that are known when the graph is traced.

    Attributes:
        array: of dtype object: int, float, bool, or symbols of the batch.
        kind: "i", "f" or "b", as `numpy.dtype.kind`.
    """

    array: Array
    kind: str = "i"

    @property
    def known(self) -> bool:
        """Whether no symbol is among the numbers."""
        return not any(isinstance(item, _SYMBOLS) for item in self.array.reshape(-1))

    def values(self) -> Array:
        """The numbers as int64, float32 or bool, where all of them are known."""
        return self.array.astype({"i": np.int64, "f": np.float32, "b": np.bool_}[self.kind])


def static(array: Array) -> Static:
    """Numbers of an ordinary array."""
    kind = "i" if array.dtype.kind in "iu" else array.dtype.kind
    result = np.empty(array.shape, object)
    result[...] = array.tolist() if array.ndim else array.item()
    return Static(result, kind)


def shape_of(dims: Sequence[Any], start: int = 0, end: int | None = None) -> Static:
    """The dimensions of a tensor, or some of them."""
    chosen = list(dims)[slice(start, end)]
    array = np.empty(len(chosen), object)
    for i, dim in enumerate(chosen):
        array[i] = dim
    return Static(array)


Rule = Callable[[Mapping[str, Any], int, list[Static | None]], "Static | list[Static]"]
_RULES: dict[str, Rule] = {}


def find(name: str) -> Rule | None:
    """The rule of an operator on known numbers, None if it has none."""
    return _RULES.get(name)


_ANY = frozenset({"Concat", "Where", "Range"})
"""Operators all of whose inputs are data; of the others the first one is."""


def applies(name: str, values: Sequence[object]) -> bool:
    """Whether a node computes with numbers: its data does, and its result is no tensor of data."""
    if name == "ConstantOfShape":
        return isinstance(values[0], Static) and values[0].known and values[0].array.size <= 1
    data = values if name in _ANY or name in _BINARY else values[:1]
    return any(isinstance(value, Static) for value in data)


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        for name in names:
            _RULES[name] = rule
        return rule

    return enter


def _axes(attributes: Mapping[str, Any], inputs: Sequence[Static | None]) -> tuple[int, ...] | None:
    if "axes" in attributes:
        return tuple(attributes["axes"])
    given = inputs[1] if len(inputs) > 1 else None
    return None if given is None else tuple(int(axis) for axis in given.array.reshape(-1))


def _data(inputs: Sequence[Static | None], index: int = 0) -> Static:
    found = inputs[index] if index < len(inputs) else None
    if found is None:
        raise ImportModelError("an input is missing")
    if found.array.size > MAX_SIZE:
        raise ImportModelError(f"a shape of {found.array.size} numbers is none")
    return found


@_rule("Identity")
def _identity(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
    return _data(inputs)


@_rule("Cast")
def _cast(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x = _data(inputs)
    kind = numpy_type(int(attributes.get("to", 0)), "a cast").kind
    kind = "i" if kind == "u" else kind
    if kind == x.kind:
        return x
    convert: Callable[[Any], Any] = {"i": math.trunc, "f": _real, "b": bool}[kind]
    return Static(_each(convert, x.array), kind)


def _real(item: Any) -> Any:
    return item * 1.0 if isinstance(item, torch.SymInt) else float(item)


def _each(function: Callable[..., Any], *arrays: Array) -> Array:
    result = np.frompyfunc(function, len(arrays), 1)(*arrays)
    if isinstance(result, np.ndarray):
        return result
    single = np.empty((), object)
    single[()] = result
    return single


@_rule("Gather")
def _gather(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, indices = _data(inputs), _data(inputs, 1)
    axis = axis_of(int(attributes.get("axis", 0)), x.array.ndim)
    found = np.take(x.array, indices.array.astype(np.int64), axis)
    return Static(_array(found), x.kind)


def _array(found: Any) -> Array:
    if isinstance(found, np.ndarray):
        return found
    single = np.empty((), object)
    single[()] = found
    return single


@_rule("Slice")
def _slice(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x = _data(inputs)
    numbers: list[list[int] | None] = []
    for index, name in enumerate(("starts", "ends", "axes", "steps"), 1):
        given = inputs[index] if index < len(inputs) else None
        if name in attributes:
            numbers.append(list(attributes[name]))
        else:
            numbers.append(None if given is None else [int(i) for i in given.array.reshape(-1)])
    starts, ends, axes, steps = numbers
    if starts is None or ends is None:
        raise ImportModelError("it lacks its starts or ends")
    index_of = [slice(None)] * x.array.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axis_of(axes[i] if axes else i, x.array.ndim)
        step = steps[i] if steps else 1
        below = step < 0 and end < -x.array.shape[axis]
        index_of[axis] = slice(start, None if below else end, step)
    return Static(x.array[tuple(index_of)], x.kind)


@_rule("Split")
def _split(
    attributes: Mapping[str, Any], outputs: int, inputs: list[Static | None]
) -> list[Static]:
    x = _data(inputs)
    given = inputs[1] if len(inputs) > 1 else None
    sizes = attributes.get("split") or (None if given is None else given.array.tolist())
    axis = axis_of(int(attributes.get("axis", 0)), x.array.ndim)
    parts: Any = outputs if sizes is None else np.cumsum([int(size) for size in sizes])[:-1]
    return [Static(part, x.kind) for part in np.split(x.array, parts, axis)]


@_rule("Concat")
def _concat(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    arrays = [_data(inputs, i) for i in range(len(inputs))]
    axis = axis_of(int(attributes.get("axis", 0)), arrays[0].array.ndim)
    return Static(np.concatenate([each.array for each in arrays], axis), arrays[0].kind)


@_rule("Squeeze")
def _squeeze(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, axes = _data(inputs), _axes(attributes, inputs)
    return Static(_array(np.squeeze(x.array, axes)), x.kind)


@_rule("Unsqueeze")
def _unsqueeze(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, axes = _data(inputs), _axes(attributes, inputs)
    return Static(np.expand_dims(x.array, axes or (0,)), x.kind)


@_rule("Reshape")
def _reshape(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, shape = _data(inputs), [int(size) for size in _data(inputs, 1).array.reshape(-1)]
    if not attributes.get("allowzero", 0):
        shape = [x.array.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return Static(x.array.reshape(shape), x.kind)


@_rule("Transpose")
def _transpose(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x = _data(inputs)
    return Static(np.transpose(x.array, attributes.get("perm")), x.kind)


def _divided(x: Any, y: Any) -> Any:
    """Integers are divided towards 0; dimensions are not negative."""
    whole = all(isinstance(item, (int, torch.SymInt)) for item in (x, y))
    if not whole:
        return x / y
    if isinstance(x, torch.SymInt) or isinstance(y, torch.SymInt):
        return x // y
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def _larger(x: Any, y: Any) -> Any:
    return torch.sym_max(x, y)  # type: ignore[no-untyped-call]


def _smaller(x: Any, y: Any) -> Any:
    return torch.sym_min(x, y)  # type: ignore[no-untyped-call]


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": python.add,
    "Sub": python.sub,
    "Mul": python.mul,
    "Div": _divided,
    "Mod": python.mod,
    "Max": _larger,
    "Min": _smaller,
    "Equal": python.eq,
    "Less": python.lt,
    "LessOrEqual": python.le,
    "Greater": python.gt,
    "GreaterOrEqual": python.ge,
    "And": lambda x, y: bool(x) and bool(y),
    "Or": lambda x, y: bool(x) or bool(y),
}
_COMPARE = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or"}


def _enter_binary(name: str, function: Callable[[Any, Any], Any]) -> None:
    @_rule(name)
    def run(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
        operands = [_data(inputs, i) for i in range(len(inputs))]
        array = functools.reduce(
            lambda x, y: _each(function, x, y), [each.array for each in operands]
        )
        kind = "b" if name in _COMPARE else max((each.kind for each in operands), key="bif".index)
        return Static(array, kind)


for _name, _function in _BINARY.items():
    _enter_binary(_name, _function)

_UNARY: dict[str, Callable[[Any], Any]] = {
    "Neg": python.neg,
    "Abs": abs,
    "Ceil": lambda x: float(math.ceil(x)),
    "Floor": lambda x: float(math.floor(x)),
    "Round": lambda x: float(round(x)),
    "Sqrt": math.sqrt,
    "Not": python.not_,
}


def _enter_unary(name: str, function: Callable[[Any], Any]) -> None:
    @_rule(name)
    def run(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
        x = _data(inputs)
        return Static(_each(function, x.array), x.kind)


for _name, _single in _UNARY.items():
    _enter_unary(_name, _single)


@_rule("Where")
def _where(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
    condition, x, y = (_data(inputs, i) for i in range(3))
    array = _each(lambda c, a, b: a if c else b, condition.array, x.array, y.array)
    return Static(array, x.kind)


@_rule("Expand")
def _expand(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
    x, shape = _data(inputs), [int(size) for size in _data(inputs, 1).array.reshape(-1)]
    if math.prod(shape) > MAX_SIZE or any(size < 0 for size in shape):
        raise ImportModelError(f"a shape of {shape} numbers is none")
    return Static(
        np.broadcast_to(x.array, np.broadcast_shapes(x.array.shape, tuple(shape))), x.kind
    )


@_rule("ConstantOfShape")
def _constant(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    shape = [int(size) for size in _data(inputs).array.reshape(-1)]
    if math.prod(shape) > MAX_SIZE or any(size < 0 for size in shape):
        raise ImportModelError(f"a shape of {shape} numbers is none")
    value = attributes.get("value")
    fill = value.array if isinstance(value, Initialiser) else np.zeros(1, np.float32)
    return static(np.full(shape, fill.reshape(-1)[0]))


@_rule("Range")
def _range(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
    start, limit, delta = (_data(inputs, i).array.reshape(-1)[0] for i in range(3))
    if any(isinstance(each, _SYMBOLS) for each in (start, limit, delta)):
        raise ImportModelError(
            "a Range counts the images of the batch, as torch.onnx writes an assignment to a part "
            "of a tensor: compile the PyTorch module itself, or join the parts with torch.cat there"
        )
    if not delta or abs((limit - start) / delta) > MAX_SIZE:
        raise ImportModelError(f"numbers from {start} to {limit} in steps of {delta} are no shape")
    return static(np.arange(start, limit, delta))


def _enter_reduction(name: str, function: Callable[[Any, Any], Any]) -> None:
    @_rule(name)
    def run(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
        x = _data(inputs)
        if x.array.ndim != 1 or not x.array.size:
            raise ImportModelError("only lists of dimensions are reduced")
        result = np.empty((1,) if attributes.get("keepdims", 1) else (), object)
        result[...] = functools.reduce(function, x.array.tolist())
        return Static(result, x.kind)


_enter_reduction("ReduceProd", python.mul)
_enter_reduction("ReduceSum", python.add)
_enter_reduction("ReduceMax", _larger)
_enter_reduction("ReduceMin", _smaller)
