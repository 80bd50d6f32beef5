"""Inputs that lie on the card: tensors that speak DLPack, taken without a copy.

Work is ordered by CUDA's legacy stream. A producer is told so as DLPack has it, and makes what it
still computes on another stream be waited for; a call returns when its output is complete, so that
a consumer may read it from any stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tvm_insta.errors import InputError
from tvm_insta.runtime.arrays import ALIGNMENT, check_number, check_shape, dlpack_place, with_signs
from tvm_insta.runtime.entries import TensorInfo

CUDA = 2
"""DLPack's kDLCUDA."""

_LEGACY_STREAM = 1  # as DLPack numbers it


def on_device(inputs: Sequence[object]) -> bool:
    """Whether the inputs lie on a card, all of them.

    Raises:
        InputError: some do, and some do not.
    """
    places = [_device_of(value) for value in inputs]
    found = [place is not None and place[0] == CUDA for place in places]
    if any(found) and not all(found):
        raise InputError(
            "some inputs lie on the card and some on the host: move all of them to one place"
        )
    return bool(found) and all(found)


def check_tensors(
    given: Sequence[object], infos: Sequence[TensorInfo], max_batch: int, ffi: ModuleType
) -> tuple[list[Any], int]:
    """Check tensors on the card against the manifest; returns tvm_ffi's of them and the batch.

    Args:
        given: one for each input, see `on_device`.
        infos: of the manifest.
        max_batch: the largest batch.
        ffi: the module tvm_ffi.

    Raises:
        InputError: for a wrong number of inputs, another card than the first, a dtype or shape that
            does not fit, strides, or an address that kernels cannot load vectors from.
    """
    check_number(given, infos)
    batch: int | None = None
    tensors = []
    for value, info in zip(given, infos, strict=True):
        place = _device_of(value)
        if place is None or place[1] != 0:
            raise InputError(
                f"input {info.name} lies on card {place[1] if place else '?'}, the model runs on "
                "card 0: move it there first"
            )
        tensor = _imported(value, info, ffi)
        if str(tensor.dtype) != np.dtype(info.dtype).name:
            raise InputError(
                f"input {info.name} has dtype {tensor.dtype}, the model takes {info.dtype}; "
                f"convert it first (.to(torch.{info.dtype}) in PyTorch)"
            )
        batch = check_shape(tuple(map(int, tensor.shape)), info, max_batch, batch)
        tensors.append(tensor)
    return tensors, 1 if batch is None else batch


def _device_of(value: object) -> tuple[int, int] | None:
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
        return None
    return dlpack_place(value)


def _imported(value: Any, info: TensorInfo, ffi: ModuleType) -> Any:
    try:
        # A capsule: of an object tvm_ffi takes the tensor without asking its stream.
        return ffi.from_dlpack(
            with_signs(value).__dlpack__(stream=_LEGACY_STREAM),
            require_alignment=ALIGNMENT,
            require_contiguous=True,
        )
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"input {info.name} cannot be used where it lies on the card ({error}); pass a dense "
            f"tensor in C order, aligned to {ALIGNMENT} bytes, without gradient "
            "(.detach().contiguous().clone() in PyTorch)"
        ) from error
