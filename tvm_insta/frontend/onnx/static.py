"""Computations on shapes: Python numbers, some of them symbolic, in the order of ONNX's operators.

``Shape`` gives such a tensor; what is made of it stays one as long as only operators of this table
touch it. So `torch.export` sees the arithmetic of a dynamic batch as arithmetic of its symbol, not
as data. Here are the operators that move numbers; `static_numbers` has those that compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from onnx.helper import np_dtype_to_tensor_dtype

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import Array, Initialiser
from tvm_insta.frontend.onnx.operators.registry import axis_of
from tvm_insta.frontend.onnx.tensors import FLOATS, bounds, element_name, numpy_type

SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
MAX_SIZE = 1 << 16


@dataclass(frozen=True)
class Static:
    """A tensor of numbers that are known when the graph is traced.

    Attributes:
        array: of dtype object: int, float, bool, or symbols of the batch.
        element: ONNX element type; the numbers are those that it can hold.
    """

    array: Array
    element: int = TensorProto.INT64

    @property
    def known(self) -> bool:
        """Whether no symbol is among the numbers."""
        return not any(isinstance(item, SYMBOLS) for item in self.array.reshape(-1))

    def values(self) -> Array:
        """The numbers as data has them: floats of any width are float32 there."""
        return self.array.astype(numpy_type(self.element, "a shape"))

    def doubles(self) -> Array | None:
        """The numbers of a float64 tensor, None for all others."""
        return self.array.astype(np.float64) if self.element == TensorProto.DOUBLE else None


def static(array: Array, element: int = TensorProto.UNDEFINED) -> Static:
    """Numbers of an ordinary array, in its own type or in ``element``."""
    result = np.empty(array.shape, object)
    result[...] = array.tolist() if array.ndim else array.item()
    if element == TensorProto.UNDEFINED:
        element = int(np_dtype_to_tensor_dtype(array.dtype))
    return Static(each(lambda item: fitted(item, element), result), element)


def fitted(item: Any, element: int) -> Any:
    """A number as an ONNX element type holds it: floats are rounded, integers wrap round.

    A result of ``+ - * /`` or a root that was computed in float64 and is rounded here is the one
    that float32 and narrower types give. Symbols stay as they are: no dimension comes near the ends
    of 32 bits, and a float of the batch is data in the end, or its dimension is refused.
    """
    if element in FLOATS:
        return item if isinstance(item, SYMBOLS) else _rounded(float(item), element)
    if element == TensorProto.BOOL:
        return item if isinstance(item, torch.SymBool) else bool(item)
    low, high = bounds(element)
    if isinstance(item, SYMBOLS):
        if high < 2**31 - 1:
            raise ImportModelError(
                f"it casts the batch to {element_name(element)}, which is not taken: use INT64"
            )
        return item
    return low + (int(item) - low) % (high - low + 1)


def _rounded(item: float, element: int) -> float:
    if element == TensorProto.DOUBLE or not math.isfinite(item):
        return item
    with np.errstate(over="ignore"):
        if element == TensorProto.FLOAT16:
            return float(np.float16(item))
        single = np.float32(item)
    if element == TensorProto.FLOAT or not np.isfinite(single):
        return float(single)
    bits = int(single.view(np.uint32))  # bfloat16 is the upper half, rounded to even
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(np.uint32(bits).view(np.float32))


def shape_of(dims: Sequence[Any], start: int = 0, end: int | None = None) -> Static:
    """The dimensions of a tensor, or some of them."""
    chosen = list(dims)[slice(start, end)]
    array = np.empty(len(chosen), object)
    for i, dim in enumerate(chosen):
        array[i] = dim
    return Static(array)


Rule = Callable[[Mapping[str, Any], int, list[Static | None]], "Static | list[Static]"]
_RULES: dict[str, Rule] = {}
_ALL_DATA: set[str] = set()
"""Operators all of whose inputs are data; of the others the first one is."""


def find(name: str) -> Rule | None:
    """The rule of an operator on known numbers, None if it has none."""
    return _RULES.get(name)


def applies(name: str, values: Sequence[object]) -> bool:
    """Whether a node computes with numbers: its data does, and its result is no tensor of data."""
    if name == "ConstantOfShape":
        return isinstance(values[0], Static) and values[0].known and values[0].array.size <= 1
    data_of = values if name in _ALL_DATA else values[:1]
    return any(isinstance(value, Static) for value in data_of)


def rule(*names: str, all_data: bool = False) -> Callable[[Rule], Rule]:
    """Enter a function under the names of operators."""

    def enter(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = function
            if all_data:
                _ALL_DATA.add(name)
        return function

    return enter


def axes_of(
    attributes: Mapping[str, Any], inputs: Sequence[Static | None]
) -> tuple[int, ...] | None:
    """The axes of a node: an attribute of older versions, the second input of newer ones."""
    if "axes" in attributes:
        return tuple(attributes["axes"])
    given = inputs[1] if len(inputs) > 1 else None
    return None if given is None else tuple(int(axis) for axis in given.array.reshape(-1))


def data(inputs: Sequence[Static | None], index: int = 0) -> Static:
    """An input that must be there.

    Raises:
        ImportModelError: it is not, or has too many numbers for a shape.
    """
    found = inputs[index] if index < len(inputs) else None
    if found is None:
        raise ImportModelError("an input is missing")
    if found.array.size > MAX_SIZE:
        raise ImportModelError(f"a shape of {found.array.size} numbers is none")
    return found


def each(function: Callable[..., Any], *arrays: Array) -> Array:
    """A function of the numbers of broadcast arrays."""
    return _array(np.frompyfunc(function, len(arrays), 1)(*arrays))


def _array(found: Any) -> Array:
    if isinstance(found, np.ndarray):
        return found
    single = np.empty((), object)
    single[()] = found
    return single


@rule("Identity")
def _identity(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
    return data(inputs)


@rule("Gather")
def _gather(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, indices = data(inputs), data(inputs, 1)
    axis = axis_of(int(attributes.get("axis", 0)), x.array.ndim)
    found = np.take(x.array, indices.array.astype(np.int64), axis)
    return Static(_array(found), x.element)


@rule("Slice")
def _slice(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x = data(inputs)
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
        size = x.array.shape[axis]
        # Backwards from before the first element ONNX takes that one, where numpy takes none.
        first = max(start, -size) if step < 0 else start
        index_of[axis] = slice(first, None if step < 0 and end < -size else end, step)
    return Static(x.array[tuple(index_of)], x.element)


@rule("Split")
def _split(
    attributes: Mapping[str, Any], outputs: int, inputs: list[Static | None]
) -> list[Static]:
    x = data(inputs)
    given = inputs[1] if len(inputs) > 1 else None
    sizes = attributes.get("split") or (None if given is None else given.array.tolist())
    axis = axis_of(int(attributes.get("axis", 0)), x.array.ndim)
    if sizes is None:
        count = int(attributes.get("num_outputs", outputs))
        sizes = [-(-x.array.shape[axis] // count)] * count  # the last piece may be smaller
    parts = np.cumsum([int(size) for size in sizes])[:-1]
    return [Static(part, x.element) for part in np.split(x.array, parts, axis)]


@rule("Concat", all_data=True)
def _concat(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    arrays = [data(inputs, i) for i in range(len(inputs))]
    axis = axis_of(int(attributes.get("axis", 0)), arrays[0].array.ndim)
    return Static(np.concatenate([given.array for given in arrays], axis), arrays[0].element)


@rule("Squeeze")
def _squeeze(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, axes = data(inputs), axes_of(attributes, inputs)
    return Static(_array(np.squeeze(x.array, axes or None)), x.element)


@rule("Unsqueeze")
def _unsqueeze(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, axes = data(inputs), axes_of(attributes, inputs)
    return Static(np.expand_dims(x.array, axes or (0,)), x.element)


@rule("Reshape")
def _reshape(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x, shape = data(inputs), [int(size) for size in data(inputs, 1).array.reshape(-1)]
    if not attributes.get("allowzero", 0):
        shape = [x.array.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return Static(x.array.reshape(shape), x.element)


@rule("Transpose")
def _transpose(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    x = data(inputs)
    return Static(np.transpose(x.array, attributes.get("perm")), x.element)


@rule("Expand")
def _expand(_: Mapping[str, Any], __: int, inputs: list[Static | None]) -> Static:
    x, shape = data(inputs), [int(size) for size in data(inputs, 1).array.reshape(-1)]
    if math.prod(shape) > MAX_SIZE or any(size < 0 for size in shape):
        raise ImportModelError(f"a shape of {shape} numbers is none")
    return Static(
        np.broadcast_to(x.array, np.broadcast_shapes(x.array.shape, tuple(shape))), x.element
    )


@rule("ConstantOfShape")
def _constant(attributes: Mapping[str, Any], _: int, inputs: list[Static | None]) -> Static:
    shape = [int(size) for size in data(inputs).array.reshape(-1)]
    if math.prod(shape) > MAX_SIZE or any(size < 0 for size in shape):
        raise ImportModelError(f"a shape of {shape} numbers is none")
    value = attributes.get("value")
    fill = Static(np.array([0.0], object), TensorProto.FLOAT)
    if isinstance(value, Initialiser):
        fill = static(value.exact, value.element)
    return Static(np.broadcast_to(fill.array.reshape(-1)[:1], shape), fill.element)
