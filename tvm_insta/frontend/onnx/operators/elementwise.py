"""Arithmetic, comparisons, logic and activation functions, element by element."""

from __future__ import annotations

import functools
import math
import operator as python
from collections.abc import Callable
from typing import Any, Literal

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
    axis_of,
    operator,
    prefer_float,
)
from tvm_insta.frontend.onnx.tensors import element_name, numpy_type

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
    whole = not torch.as_tensor(x).is_floating_point() and not torch.as_tensor(y).is_floating_point()
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
def dropout(x: Tensor, ratio: Tensor | None = None, training: Constant | None = None) -> Result:
    """``x``, and a mask that is true everywhere."""
    if training is not None and training.array.any():
        raise ImportModelError("it is in training mode: export the model in evaluation mode")
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
    dtype = numpy_type(to, "a cast")
    if to in (TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64):
        raise ImportModelError(f"it casts to {element_name(to)}, which is not taken: use INT64")
    return x.to(getattr(torch, "bool" if dtype.kind == "b" else dtype.name))


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


# -- activations ---------------------------------------------------------------------------------


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """``alpha * x`` below 0."""
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """``slope * x`` below 0; one slope, one per channel, or any that broadcasts."""
    if slope.numel() == 1:
        return F.prelu(x, slope.reshape(1))
    channels_first = x.ndim > 1 and slope.numel() == x.shape[1]
    full = (1,) * (x.ndim - slope.ndim) + tuple(slope.shape)
    if channels_first and full[1:2] == (x.shape[1],):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``alpha * (exp(x) - 1)`` below 0."""
    return F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``max(0, x) + min(0, alpha * (exp(x / alpha) - 1))``."""
    return F.celu(x, alpha)


@operator("Selu")
def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    """``gamma`` times ELU."""
    return F.elu(x, alpha) * gamma


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x`` above ``alpha``, else 0."""
    return torch.where(x > alpha, x, 0.0)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """``alpha * x + beta`` between 0 and 1."""
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@operator("Gelu")
def gelu(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """The Gaussian error linear unit."""
    return F.gelu(x, approximate=approximate)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Move by ``bias`` towards 0, and to 0 within ``lambd``."""
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0.0))


def _softmax_axis(x: Tensor, axis: int | None, context: Context) -> tuple[Tensor, int]:
    """Before version 13 all axes from ``axis`` on were one."""
    prefer_float(x, "its input")
    if context.opset >= 13:
        return x, axis_of(-1 if axis is None else axis, x.ndim)
    first = axis_of(1 if axis is None else axis, x.ndim)
    if first == x.ndim - 1:
        return x, first
    return x.flatten(first), first


@operator("Softmax")
def softmax(x: Tensor, *, axis: int | None = None, context: Context) -> Tensor:
    """Exponentials, divided by their sum."""
    flat, dim = _softmax_axis(x, axis, context)
    return torch.softmax(flat, dim).reshape(x.shape)


@operator("LogSoftmax")
def log_softmax(x: Tensor, *, axis: int | None = None, context: Context) -> Tensor:
    """Logarithm of the softmax."""
    flat, dim = _softmax_axis(x, axis, context)
    return torch.log_softmax(flat, dim).reshape(x.shape)


@operator("Hardmax")
def hardmax(x: Tensor, *, axis: int | None = None, context: Context) -> Tensor:
    """1 at the first largest, 0 elsewhere."""
    flat, dim = _softmax_axis(x, axis, context)
    best = flat.argmax(dim, keepdim=True)
    shape = [1] * flat.ndim
    shape[dim] = -1
    positions = torch.arange(flat.shape[dim]).reshape(shape)
    return (positions == best).to(x.dtype).reshape(x.shape)


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
