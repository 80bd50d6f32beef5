"""QONNX: quantisers whose result is float again, with any number of bits.

Semantics as in QONNX's executor (Pappalardo et al., "QONNX: Representing Arbitrary-Precision
Quantized Neural Networks", 2022). They are written as the arithmetic that they mean, with the same
roundings; the compiler finds levels and thresholds in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import Constant, operator

DOMAINS = (
    "qonnx",
    "qonnx.custom_op.general",
    "onnx.brevitas",
    "finn",
    "finn.custom_op.general",
)
"""Names that exporters have given to the domain; files in the wild have all of them."""
_MAX_BITS = 32


def _rounding(mode: str, low: float) -> Callable[[Tensor], Tensor]:
    """The function of a rounding mode, the simpler one where no value is below 0."""
    plain: dict[str, Callable[[Tensor], Tensor]] = {
        "ROUND": torch.round,
        "HALF_EVEN": torch.round,
        "CEIL": torch.ceil,
        "FLOOR": torch.floor,
        "DOWN": torch.trunc,
        "ROUND_TO_ZERO": torch.trunc,  # Brevitas's name for it
    }
    magnitude: dict[str, Callable[[Tensor], Tensor]] = {
        "UP": torch.ceil,
        "HALF_UP": lambda x: torch.floor(x + 0.5),
        "HALF_DOWN": lambda x: torch.ceil(x - 0.5),
    }
    name = mode.upper()
    if name in plain:
        return torch.floor if plain[name] is torch.trunc and low >= 0 else plain[name]
    if name not in magnitude:
        known = ", ".join([*plain, *magnitude])
        raise ImportModelError(f"its rounding mode is {mode!r}, but one of {known} is needed")
    function = magnitude[name]
    return function if low >= 0 else lambda x: torch.sign(x) * function(torch.abs(x))


def _bits(value: Constant, what: str = "bit width") -> int:
    numbers = value.array.reshape(-1)
    if numbers.size != 1 or not np.isfinite(numbers[0]):
        raise ImportModelError(f"its {what} must be one number")
    bits = float(numbers[0])
    if bits != int(bits) or not 1 <= bits <= _MAX_BITS:
        raise ImportModelError(f"its {what} is {bits:g}, but 1 to {_MAX_BITS} bits are taken")
    return int(bits)


def integer_range(bits: int, signed: bool, narrow: bool) -> tuple[int, int]:
    """Smallest and largest integer of a quantiser."""
    if signed:
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def _positive(scale: Constant, what: str = "scale") -> None:
    if not np.all(np.isfinite(scale.array)) or not np.all(scale.array > 0):
        raise ImportModelError(f"its {what} must be positive numbers")


def operand(x: Tensor, value: Constant, what: str) -> Any:
    """A number, or a tensor that broadcasts to ``x`` without changing its shape."""
    array = value.array
    if not np.all(np.isfinite(array)):
        raise ImportModelError(f"its {what} must be finite")
    if array.size == 1:
        return float(array.reshape(-1)[0])
    shape = (1,) * (x.ndim - array.ndim) + array.shape
    fits = array.ndim <= x.ndim and all(
        size in (1, whole) for size, whole in zip(shape[1:], x.shape[1:], strict=True)
    )
    if not fits or (shape[0] != 1 and shape[0] != x.shape[0]):
        raise ImportModelError(
            f"its {what} of shape {list(array.shape)} does not fit an input of shape "
            f"{list(x.shape)}"
        )
    return value.tensor.to(torch.float32)


def _times(x: Tensor, scale: Any) -> Tensor:
    return x if isinstance(scale, float) and scale == 1.0 else x * scale


def _divided(x: Tensor, scale: Any) -> Tensor:
    return x if isinstance(scale, float) and scale == 1.0 else x / scale


def _plus(x: Tensor, zero: Any) -> Tensor:
    return x if isinstance(zero, float) and zero == 0.0 else x + zero


def _minus(x: Tensor, zero: Any) -> Tensor:
    return x if isinstance(zero, float) and zero == 0.0 else x - zero


@operator("BipolarQuant", domains=DOMAINS)
def bipolar_quant(x: Tensor, scale: Constant) -> Tensor:
    """``scale`` where ``x >= 0``, else ``-scale``."""
    _positive(scale)
    return _times(torch.where(x >= 0, 1.0, -1.0), operand(x, scale, "scale"))


@operator("Quant", "IntQuant", domains=DOMAINS)
def quant(
    x: Tensor,
    scale: Constant,
    zero_point: Constant,
    bit_width: Constant,
    *,
    signed: bool = True,
    narrow: bool = True,
    rounding_mode: str = "ROUND",
) -> Tensor:
    """``x / scale + zero_point``, clamped, rounded, and back."""
    _positive(scale)
    bits = _bits(bit_width)
    factor, zero = operand(x, scale, "scale"), operand(x, zero_point, "zero point")
    y = _plus(_divided(x, factor), zero)
    if bits == 1 and signed:  # old exporters of FINN write the signs of binary weights so
        y = torch.where(y >= 0, 1.0, -1.0)
    else:
        low, high = integer_range(bits, signed, narrow)
        y = _rounding(rounding_mode, low)(torch.clamp(y, low, high))
    return _times(_minus(y, zero), factor)


@operator("Trunc", domains=DOMAINS)
def trunc(
    x: Tensor,
    scale: Constant,
    zero_point: Constant,
    input_bits: Constant,
    fourth: Constant,
    fifth: Constant | None = None,
    *,
    narrow: bool = False,
    rounding_mode: str = "FLOOR",
    signed: bool = True,
) -> Tensor:
    """Integers without their lowest bits.

    Version 1 has the bit widths before and after, and keeps the scale; version 2 has the scale and
    the bit width of the result.
    """
    _positive(scale)
    _bits(input_bits, "input bit width")
    factor, zero = operand(x, scale, "scale"), operand(x, zero_point, "zero point")
    y = torch.round(_plus(_divided(x, factor), zero))
    if fifth is None:
        step: Any = float(2.0 ** (_bits(input_bits) - _bits(fourth, "output bit width")))
        y = _rounding(rounding_mode, -1)(_divided(y, step))
        return _times(_minus(y, zero), factor)
    _positive(fourth, "output scale")
    ratio = np.exp2(np.round(np.log2(fourth.array / scale.array))).astype(np.float32)
    numbers = Constant(ratio, scale.element, torch.from_numpy(np.asarray(ratio)))
    step, result_scale = operand(x, numbers, "scale"), operand(x, fourth, "output scale")
    low, high = integer_range(_bits(fifth, "output bit width"), signed, narrow)
    y = _rounding(rounding_mode, low)(torch.clamp(_divided(y, step), low, high))
    if isinstance(zero, float) and zero == 0.0:
        return _times(y, result_scale)
    return _times(y - zero / step, result_scale)


_CHANNEL_AXIS = {2: 1, 3: 2, 4: 1}
"""Without a layout QONNX takes two dimensions as NC, three as NWC and four as NCHW."""


@operator("MultiThreshold", domains=DOMAINS, ignored=("out_dtype",))
def multi_threshold(
    x: Tensor,
    thresholds: Constant,
    *,
    data_layout: str = "",
    out_bias: float = 0.0,
    out_scale: float = 1.0,
) -> Tensor:
    """How many thresholds of its channel each element reaches: ``[C or 1, levels]``."""
    table = thresholds.array
    axis = data_layout.index("C") if "C" in data_layout else _CHANNEL_AXIS.get(x.ndim, 1)
    if x.ndim < 2 or axis >= x.ndim or (data_layout and len(data_layout) != x.ndim):
        raise ImportModelError(
            f"its layout {data_layout!r} does not fit an input of {x.ndim} dimensions"
        )
    channels = x.shape[axis]
    if table.ndim != 2 or table.shape[0] not in (1, channels) or not 1 <= table.shape[1] <= 255:
        raise ImportModelError(
            f"its thresholds have the shape {list(table.shape)}, but {channels} rows (or one) of 1 "
            "to 255 are needed"
        )
    if not np.all(np.isfinite(table)) or np.any(np.diff(table, axis=1) < 0):
        raise ImportModelError("its thresholds must be finite and in ascending order")
    shape = [1] * x.ndim
    shape[axis] = -1
    levels = [
        float(table[0, k]) if table.shape[0] == 1 else thresholds.tensor[:, k].reshape(shape)
        for k in range(table.shape[1])
    ]
    count = torch.where(x >= levels[0], 1.0, 0.0)
    for level in levels[1:]:
        count = count + torch.where(x >= level, 1.0, 0.0)
    return _plus(_times(count, float(out_scale)), float(out_bias))


@operator("XnorPopcountMatMul", domains=DOMAINS, layer=True)
def xnor_popcount_matmul(a: Tensor, b: Tensor) -> Tensor:
    """How many elements of a row and a column of 0s and 1s are equal."""
    product = torch.matmul(a * 2.0 - 1.0, b * 2.0 - 1.0)
    return (product + float(b.shape[0])) * 0.5
