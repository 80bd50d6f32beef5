"""Whatever a caller passes as a tensor, as a checked numpy array aligned to 64 bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_insta.errors import InputError, one_line
from tvm_insta.runtime.manifest import TensorInfo

ALIGNMENT = 64
"""Bytes; the compiled kernels load whole vectors from addresses of this alignment."""

_CPU_DEVICES = (1, 3)  # DLPack: kDLCPU, kDLCUDAHost (pinned host memory)
Array = npt.NDArray[Any]


def aligned_empty(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """An uninitialised C-order array whose data begins at a multiple of 64 bytes."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(kind).reshape(shape)


def to_aligned(array: Array) -> Array:
    """`array` itself where it is in C order, aligned and writable; else a copy that is."""
    good = array.flags.c_contiguous and array.flags.writeable
    if good and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def output_shape(infos: Sequence[TensorInfo], batch: int) -> list[int]:
    """The shape of what an artefact writes: of its output, or of all outputs of an image."""
    sizes = [[int(size) for size in info.shape[1:]] for info in infos]
    return [batch, *sizes[0]] if len(sizes) == 1 else [batch, sum(map(math.prod, sizes))]


def split_outputs(result: Array, infos: Sequence[TensorInfo]) -> Array | tuple[Array, ...]:
    """The outputs of an artefact, each in its own shape and memory; the one where it has one."""
    if len(infos) == 1:
        return result
    parts, first = [], 0
    for info in infos:
        shape = [int(size) for size in info.shape[1:]]
        part = result[:, first : first + math.prod(shape)]
        parts.append(np.ascontiguousarray(part).reshape(len(result), *shape))
        first += math.prod(shape)
    return tuple(parts)


def check_inputs(
    given: Sequence[object], infos: Sequence[TensorInfo], max_batch: int
) -> tuple[list[Array], int]:
    """Check `given` against the manifest; returns aligned C-order arrays and the batch.

    The batch is 1 where no input has a symbolic leading dimension.

    Raises:
        InputError: for a wrong number of inputs, a type, device, dtype or shape that does not fit.
    """
    check_number(given, infos)
    batch: int | None = None
    arrays = []
    for value, info in zip(given, infos, strict=True):
        array = _as_numpy(value, info)
        if array.dtype != np.dtype(info.dtype):
            raise InputError(
                f"input {info.name} has dtype {array.dtype}, the model takes {info.dtype}; convert "
                f"it with .astype({info.dtype!r})"
            )
        batch = check_shape(array.shape, info, max_batch, batch)
        arrays.append(to_aligned(array))
    return arrays, 1 if batch is None else batch


def _as_numpy(value: object, info: TensorInfo) -> Array:
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
        raise InputError(
            f"input {info.name} is a {type(value).__name__}; pass a numpy array or a tensor that "
            "speaks DLPack (PyTorch, JAX, ...)"
        )
    device = dlpack_place(value)[0]
    if device not in _CPU_DEVICES:
        raise InputError(
            f"input {info.name} lives on DLPack device type {device}, but this call takes tensors "
            "of the CPU; move it there first (.cpu() in PyTorch)"
        )
    try:
        return np.from_dlpack(with_signs(value))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"input {info.name} cannot be exported through DLPack ({error}); pass a dense tensor "
            f"of {info.dtype} without gradient (.detach() in PyTorch)"
        ) from error


def dlpack_place(value: Any) -> tuple[int, int]:
    """DLPack's device type and number of a tensor that speaks DLPack.

    Raises:
        InputError: it lies where DLPack has no name for, as PyTorch's meta tensors do.
    """
    try:
        kind, number = value.__dlpack_device__()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"a {type(value).__name__} was given that cannot be exported through DLPack "
            f"({one_line(error)}); pass a tensor whose numbers are in memory"
        ) from error
    return int(kind), int(number)


def with_signs(value: Any) -> Any:
    """The tensor to export of one of PyTorch's: DLPack knows nothing of a negation to come.

    PyTorch notes the negation of `z.conj().imag` as a bit of the tensor and leaves the numbers as
    they are; its export (2.x) asks for the bit of a conjugation, and not for this one.
    """
    resolve = getattr(value, "resolve_neg", None)
    return value if resolve is None else resolve()


def check_number(given: Sequence[object], infos: Sequence[TensorInfo]) -> None:
    """Refuse too few or too many inputs.

    Raises:
        InputError: naming those that there are.
    """
    if len(given) != len(infos):
        names = ", ".join(info.name for info in infos)
        raise InputError(f"got {len(given)} inputs, the model takes {len(infos)}: {names}")


def check_shape(
    given: tuple[int, ...], info: TensorInfo, max_batch: int, batch: int | None
) -> int | None:
    """Check the shape of an input; returns the batch, None where it is not known yet.

    Args:
        given: the shape.
        info: of the manifest.
        max_batch: the largest batch.
        batch: that of the inputs before.

    Raises:
        InputError: it does not fit.
    """
    symbolic = bool(info.shape) and isinstance(info.shape[0], str)
    fixed = info.shape[1:] if symbolic else info.shape
    got = given[1:] if symbolic else given
    if len(given) != len(info.shape) or tuple(got) != tuple(fixed):
        wanted = ", ".join(str(dim) for dim in info.shape)
        hint = "resize or transpose it"
        if symbolic and given == tuple(fixed):
            hint = "add the batch dimension with x[None]"
        raise InputError(
            f"input {info.name} has shape {list(given)}, the model takes [{wanted}]; {hint}"
        )
    if not symbolic:
        return batch
    size = int(given[0])
    if not 1 <= size <= max_batch:
        raise InputError(
            f"input {info.name} holds a batch of {size}, the model takes 1 to {max_batch}; split "
            "it, or compile with a larger maximum batch"
        )
    if batch is not None and size != batch:
        raise InputError(
            f"input {info.name} holds a batch of {size}, an earlier input one of {batch}; give "
            "every input the same batch"
        )
    return size
