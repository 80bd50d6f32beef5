"""Arithmetic, comparisons, logic and activation functions, element by element."""

from __future__ import annotations

import functools
import math
import operator as python
from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import Array
from tvm_insta.frontend.onnx.operators.registry import (
    Codes,
    Constant,
    Context,
    Result,
    operator,
)
from tvm_insta.frontend.onnx.tensors import element_name, torch_type

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,  # to the even neighbour, as ONNX has it
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


def _enter_unary(name: str, function: Callable[[Tensor], Tensor]) -> None:
    @operator(name)
    def run(x: Tensor) -> Tensor:
        return function(x)


for _name, _function in _UNARY.items():
    _enter_unary(_name, _function)


def _logical(function: Callable[[Tensor, Tensor], Tensor], x: Any, y: Any) -> Tensor:
    return function(torch.as_tensor(x), torch.as_tensor(y))


def _divide(x: Any, y: Any) -> Tensor:
    """Integers are divided towards 0."""
    whole = (
        not torch.as_tensor(x).is_floating_point() and not torch.as_tensor(y).is_floating_point()
    )
    return torch.div(x, y, rounding_mode="trunc") if whole else torch.div(x, y)


_BINARY: dict[str, Callable[[Any, Any], Tensor]] = {
    "Add": python.add,
    "Sub": python.sub,
    "Mul": python.mul,
    "Div": _divide,
    "Greater": python.gt,
    "GreaterOrEqual": python.ge,
    "Less": python.lt,
    "LessOrEqual": python.le,
    "Equal": python.eq,
    "And": functools.partial(_logical, torch.logical_and),
    "Or": functools.partial(_logical, torch.logical_or),
    "Xor": functools.partial(_logical, torch.logical_xor),
}


def _enter_binary(name: str, function: Callable[[Any, Any], Tensor]) -> None:
    @operator(name)
    def run(x: Tensor | float, y: Tensor | float) -> Tensor:
        return function(x, y)


for _name, _pair in _BINARY.items():
    _enter_binary(_name, _pair)


@operator("Pow")
def power(x: Tensor, y: Tensor | float) -> Tensor:
    """``x ** y`` in the type of ``x``."""
    return torch.pow(x, y).to(x.dtype)


@operator("Mod")
def mod(x: Tensor, y: Tensor | float, *, fmod: bool = False) -> Tensor:
    """The remainder, with the sign of ``y``, or of ``x`` with ``fmod``."""
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


@operator("Identity")
def identity(x: Tensor | Codes) -> Result:
    """``x``."""
    return x


@operator("Dropout", ignored=("seed", "ratio"))
def dropout(
    x: Tensor,
    ratio: Tensor | None = None,
    training: Constant | None = None,
    *,
    context: Context,
) -> Result:
    """``x``, and a mask: true everywhere since version 12, as ONNX Runtime has it."""
    if training is not None and training.array.any():
        raise ImportModelError("it is in training mode: export the model in evaluation mode")
    if context.opset < 12:
        return x, torch.zeros_like(x, dtype=torch.bool if context.opset >= 10 else x.dtype)
    return x, torch.ones_like(x, dtype=torch.bool)


@operator("IsInf")
def is_infinite(x: Tensor, *, detect_negative: bool = True, detect_positive: bool = True) -> Tensor:
    """Where ``x`` is infinite."""
    return ((x == math.inf) & detect_positive) | ((x == -math.inf) & detect_negative)


@operator("Cast", ignored=("saturate", "round_mode"))
def cast(x: Tensor, *, to: int) -> Tensor:
    """``x`` in another type; floats of any width are float32 here."""
    return _cast(x, to)


@operator("CastLike", ignored=("saturate", "round_mode"))
def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the type of ``like``."""
    return x.to(like.dtype)


def _cast(x: Tensor, to: int) -> Tensor:
    dtype = torch_type(to, "a cast")
    if to in (TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64):
        raise ImportModelError(f"it casts to {element_name(to)}, which is not taken: use INT64")
    return x.to(dtype)


@operator("Where")
def where(condition: Tensor, x: Tensor | float, y: Tensor | float) -> Tensor:
    """``x`` where the condition holds, else ``y``."""
    return torch.where(condition, x, y)


def _chain(function: Callable[[Tensor, Tensor], Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
    return functools.reduce(function, tensors)


@operator("Max")
def maximum(*tensors: Tensor) -> Tensor:
    """Largest of the inputs."""
    return _chain(torch.maximum, tensors)


@operator("Min")
def minimum(*tensors: Tensor) -> Tensor:
    """Smallest of the inputs."""
    return _chain(torch.minimum, tensors)


@operator("Sum")
def total(*tensors: Tensor) -> Tensor:
    """Sum of the inputs."""
    return _chain(torch.add, tensors)


@operator("Mean")
def mean(*tensors: Tensor) -> Tensor:
    """Mean of the inputs."""
    return _chain(torch.add, tensors) / len(tensors)


@operator("Clip")
def clip(
    x: Tensor | Codes,
    low: Tensor | float | None = None,
    high: Tensor | float | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Result:
    """``x`` between bounds: inputs since version 11, attributes before."""
    if isinstance(x, Codes):
        return Codes(_clip(x.values, low, high), x.element)
    return _clip(x, low if min is None else min, high if max is None else max)


def _clip(x: Tensor, low: Any, high: Any) -> Tensor:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        if low is not None:
            x = torch.maximum(x, torch.as_tensor(low, dtype=x.dtype))
        return x if high is None else torch.minimum(x, torch.as_tensor(high, dtype=x.dtype))
    if low is None and high is None:
        return x
    return torch.clamp(x, low, high)


def known_number(constant: Constant | None, default: float = 0.0) -> float:
    """The single number of a constant input.

    Raises:
        ImportModelError: it has more than one element.
    """
    if constant is None:
        return default
    values: Array = constant.array
    if values.size != 1:
        raise ImportModelError(f"one number is needed, but {values.size} were given")
    return float(values.reshape(-1)[0])
