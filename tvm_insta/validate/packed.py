"""What one compare-and-pack kernel of an artefact read and wrote, in the layout of its kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tvm_insta.errors import ArtefactError, one_line
from tvm_insta.ops import packing
from tvm_insta.runtime.manifest import Binarisation
from tvm_insta.runtime.trace import TraceEntry

Array = npt.NDArray[Any]

_COMPARE = {
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
}


@dataclass(frozen=True)
class Packed:
    """One binarisation of one image.

    Attributes:
        x: the compared activations, ``[1, H, W, C]`` or ``[1, C]``.
        codes: how many thresholds each element passes, as packed, uint8 like ``x``.
        wrong: how many codes are not that number for ``x`` and the artefact's own thresholds.
    """

    x: Array
    codes: Array
    wrong: int


def read_packed(entry: TraceEntry, pack: Binarisation) -> Packed:
    """Read a traced kernel call.

    Args:
        entry: the call.
        pack: how its words are read, and its thresholds where they are constant.

    Raises:
        ArtefactError: the call has no such tensors.
    """
    try:
        return _read(entry, pack)
    except (IndexError, ValueError) as error:  # numpy's, of shapes that do not fit each other
        raise ArtefactError(
            f"kernel {entry.symbol} does not pack what the manifest says of it "
            f"({one_line(error)}): compile the model again"
        ) from error


def _read(entry: TraceEntry, pack: Binarisation) -> Packed:
    x = _named(entry, pack.source)
    if pack.thresholds is None:
        own = _named(entry, pack.threshold)
    else:
        values = np.frombuffer(bytes.fromhex(pack.thresholds), "<f4")
        own = values.reshape(pack.threshold_shape)
    packed = entry.outputs[pack.output]
    if packed.ndim == 4:
        top, left, bottom, right = pack.pad
        packed = packed[:, top : packed.shape[1] - bottom, left : packed.shape[2] - right]
    if packed.dtype == np.int8:  # +1 and -1, as AMX tiles take them
        codes = (packed[..., : pack.channels] > 0).astype(np.uint8)
    else:
        codes = packing.unpack_codes(packed, pack.channels, pack.bits, pack.groups)
    x = x.reshape(codes.shape)  # the plain-C form's kernels read an input in whatever shape it has
    compare = _COMPARE[pack.compare]
    expected = np.zeros(x.shape, np.uint8)
    for at, level in enumerate(_as_levels(own, x, pack.bits)):
        unordered = np.isnan(x) | np.isnan(level)
        expected += np.where(unordered, at < pack.nan, compare(x, level))
    return Packed(x, codes, int((expected != codes).sum()))


def arranged(
    value: Array, axes: tuple[int, ...], shape: Sequence[int], every: tuple[int, ...] = ()
) -> torch.Tensor | None:
    """A tensor in a kernel's layout as PyTorch has it; None where it has not as many elements.

    Args:
        value: of the kernel.
        axes: see `Site`.
        shape: of PyTorch's tensor.
        every: see `Site`; the result has so many times the elements in each dimension.
    """
    if len(axes) != len(shape):
        return None
    whole = [int(dim) * step for dim, step in zip(shape, every or [1] * len(shape), strict=True)]
    if value.size != math.prod(whole):
        return None
    own = [0] * len(axes)  # vectors of a batch may be packed as pixels of images
    for axis, dim in zip(axes, whole, strict=True):
        own[axis] = dim
    return torch.from_numpy(np.ascontiguousarray(value.reshape(own).transpose(axes)))


def laid_out_like(theirs: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
    """The artefact's values with the element type and the strides of PyTorch's.

    The graph was exported with these strides, and a view of another layout may be impossible.
    """
    return torch.empty_like(theirs).copy_(ours)


def _named(entry: TraceEntry, place: str) -> Array:
    """The tensor that a manifest calls "argument:i" or "output:i" of a kernel call."""
    kind, number = place.split(":")
    found = (entry.inputs if kind == "argument" else entry.outputs)[int(number)]
    if found is None:  # compared and computed tensors are none, constant thresholds are in `pack`
        raise ValueError(f"{place} is a constant")
    return found


def _as_levels(thresholds: Array, x: Array, bits: int) -> list[Array]:
    """Thresholds ``[L, ...]`` in whatever shape the kernel was given, as L tensors of x's rank."""
    count = 2**bits - 1
    if thresholds.shape[1:] == x.shape or (
        thresholds.ndim == x.ndim + 1 and thresholds.shape[-1] == 1 < thresholds.size // count
    ):  # one per row, or per element
        return list(thresholds)
    if thresholds.size == count:
        shape: tuple[int, ...] = (count, *(1 for _ in x.shape))
    elif thresholds.size == count * x.shape[-1]:  # one per channel
        shape = (count, *(1 for _ in x.shape[:-1]), x.shape[-1])
    else:
        shape = (count, *thresholds.shape[-x.ndim :])
    return list(thresholds.reshape(shape))
