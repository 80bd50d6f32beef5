"""Arrays and scalars of NumPy in a pickle, read from their bytes.

NumPy's own functions for it trust their input: a dtype that lies about what it holds makes them
follow pointers.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class NumpyDType:
    """Stands for `numpy.dtype`."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code if isinstance(code, str) else ""
        self.big_endian = False

    def __setstate__(self, state: object) -> None:
        self.big_endian = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"

    def resolve(self) -> np.dtype[Any] | None:
        """Give the dtype, where it is one of plain numbers."""
        try:
            found = np.dtype(self.code).newbyteorder(">" if self.big_endian else "<")
        except (TypeError, ValueError):
            return None
        return found if found.kind in "biufc" else None


class NumpyArray:
    """Stands for `numpy.ndarray`; `value` is None for an array that holds no numbers."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            return
        _, shape, dtype, fortran, raw = state
        numbers = _numbers(dtype, raw)
        if numbers is not None and isinstance(shape, tuple):
            self.value = numbers.reshape(shape, order="F" if fortran else "C")


def _numbers(dtype: object, raw: object) -> np.ndarray[Any, Any] | None:
    """The numbers in some bytes, in the byte order of this machine; None if they are none."""
    known = dtype.resolve() if isinstance(dtype, NumpyDType) else None
    if isinstance(raw, str):  # bytes of Python 2
        raw = raw.encode("latin1")
    if known is None or not isinstance(raw, bytes | bytearray) or len(raw) % known.itemsize:
        return None
    return np.frombuffer(bytes(raw), known).astype(known.newbyteorder("="))


def scalar(dtype: object = None, raw: object = b"", *_: object) -> object:
    """Stands for the function that rebuilds NumPy's scalars."""
    numbers = _numbers(dtype, raw)
    return numbers[0].item() if numbers is not None and numbers.size == 1 else None


def reconstruct(form: object = None, *_: object) -> NumpyArray | None:
    """Stands for the function that makes an empty array, which its state then fills."""
    return form() if isinstance(form, type) and issubclass(form, NumpyArray) else None
