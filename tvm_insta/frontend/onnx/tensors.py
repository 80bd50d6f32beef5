"""TensorProto -> numpy: sizes are checked before anything is allocated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.graph import Initialiser
from tvm_insta.frontend.onnx.limits import SHAPE_NUMBERS, check_shape

FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)
"""Element types that are computed in float32."""

NARROW = {
    getattr(TensorProto, name): bounds
    for name, bounds in {
        "INT4": (-8, 7),
        "UINT4": (0, 15),
        "INT2": (-2, 1),
        "UINT2": (0, 3),
    }.items()
    if hasattr(TensorProto, name)  # INT2 and UINT2 are new in onnx 1.20
}
"""Smallest and largest value of the integers of less than 8 bits."""

_BITS = {
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.BOOL: 8,
    **{element: (4 if high in (7, 15) else 2) for element, (_, high) in NARROW.items()},
}
_NUMPY: dict[int, type[np.generic]] = {
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT16: np.int16,
    TensorProto.UINT16: np.int32,
    TensorProto.INT32: np.int32,
    TensorProto.UINT32: np.int64,
    TensorProto.INT64: np.int64,
    TensorProto.UINT64: np.int64,
    TensorProto.BOOL: np.bool_,
    **{element: (np.int8 if low < 0 else np.uint8) for element, (low, _) in NARROW.items()},
    **dict.fromkeys(FLOATS, np.float32),
}


_WIDE_UNSIGNED = (TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64)
"""Held in wider signed integers, as PyTorch has no arithmetic of their own."""


def element_name(element: int) -> str:
    """The name of an ONNX element type, e.g. "INT4"."""
    try:
        return str(TensorProto.DataType.Name(element))
    except ValueError:
        return f"number {element}"


def numpy_type(element: int, what: str) -> np.dtype[Any]:
    """The type in which values of an ONNX element type are held.

    Raises:
        ImportModelError: strings, complex numbers, 8-bit floats, or no type at all.
    """
    if element not in _NUMPY:
        raise ImportModelError(
            f"{what} has the element type {element_name(element)}, but float32, float16, bfloat16, "
            "float64, integers of 2 to 64 bits and booleans are taken"
        )
    return np.dtype(_NUMPY[element])


def torch_type(element: int, what: str) -> torch.dtype:
    """The same, of a tensor; raises as `numpy_type`."""
    dtype: torch.dtype = getattr(torch, numpy_type(element, what).name)
    return dtype


def bounds(element: int) -> tuple[int, int]:
    """Smallest and largest value of an ONNX integer type."""
    if element in NARROW:
        return NARROW[element]
    if element in _WIDE_UNSIGNED:
        return 0, (1 << _BITS[element]) - 1
    info = np.iinfo(numpy_type(element, "an integer"))
    return int(info.min), int(info.max)


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of the raw data of a tensor, by its dimensions and element type."""
    bits = math.prod(int(dim) for dim in tensor.dims) * _BITS[int(tensor.data_type)]
    return (bits + 7) // 8


def check_tensor(tensor: onnx.TensorProto, what: str) -> None:
    """Do nothing if the dimensions of ``tensor`` are sane and its data has their size.

    Raises:
        ImportModelError: an absurd shape, another element type, or data of another size.
    """
    check_shape(list(tensor.dims), what)
    numpy_type(tensor.data_type, what)
    if tensor.HasField("segment"):
        raise ImportModelError(f"{what} is stored in segments, which no exporter writes")
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    wanted, found = stored_bytes(tensor), len(tensor.raw_data)
    if tensor.HasField("raw_data"):
        if found != wanted:
            raise ImportModelError(
                f"{what} has {found} bytes, but its shape {list(tensor.dims)} needs {wanted}: the "
                "file is damaged"
            )
        return
    counts = [
        len(values)
        for values in (
            tensor.float_data,
            tensor.int32_data,
            tensor.int64_data,
            tensor.double_data,
            tensor.uint64_data,
        )
    ]
    elements = math.prod(tensor.dims)
    allowed = {elements, (elements * _BITS[tensor.data_type] + 7) // 8}  # packed integers
    if tensor.string_data or sum(map(bool, counts)) > 1 or sum(counts) not in allowed:
        raise ImportModelError(
            f"{what} has {sum(counts)} values, but its shape {list(tensor.dims)} needs {elements}: "
            "the file is damaged"
        )


def to_initialiser(tensor: onnx.TensorProto, what: str) -> Initialiser:
    """The values of a tensor that `check_tensor` has passed.

    Raises:
        ImportModelError: the data cannot be read.
    """
    check_tensor(tensor, what)
    try:
        array = np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OverflowError) as error:
        raise ImportModelError(f"{what} cannot be read ({error}): the file is damaged") from error
    with np.errstate(over="ignore"):  # a float64 that float32 cannot hold becomes infinite
        values = np.ascontiguousarray(array.astype(numpy_type(tensor.data_type, what)))
    shaped = values.reshape(tuple(tensor.dims))
    small = tensor.data_type == TensorProto.DOUBLE and array.size <= SHAPE_NUMBERS
    return Initialiser(shaped, int(tensor.data_type), array if small else None)
