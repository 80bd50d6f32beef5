"""What one compare-and-pack kernel of an artefact read and wrote, in the kernel's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
        x: the compared activations, ``[1, H, W, C]`` or ``[1, C]`` float32.
        thresholds: one per level, each broadcastable to ``x``.
        compare: "ge", "gt", "le" or "lt".
        levels: for each level, whether the packed code says that x passes it, bool like ``x``.
    """

    x: Array
    thresholds: tuple[Array, ...]
    compare: str
    levels: tuple[Array, ...]

    @property
    def codes(self) -> Array:
        """How many comparisons hold, int64 like ``x``."""
        total: Array = np.sum([level.astype(np.int64) for level in self.levels], axis=0)
        return total

    def wrong_bits(self, level: int) -> int:
        """How many packed bits are not the comparison of the artefact's own values."""
        exact = _COMPARE[self.compare](self.x, self.thresholds[level])
        return int((exact != self.levels[level]).sum())


def read_packed(entry: TraceEntry, pack: Binarisation) -> Packed:
    """Read a traced kernel call.

    Args:
        entry: the call.
        pack: how its words are read, and its thresholds where they are constant.
    """
    x = _named(entry, pack.source)
    assert x is not None, "activations are computed, never constant"
    if pack.thresholds is None:
        own = _named(entry, pack.threshold)
        assert own is not None, "thresholds are constant and in the manifest, or computed"
    else:
        values = np.frombuffer(bytes.fromhex(pack.thresholds), "<f4")
        own = values.reshape(pack.threshold_shape)
    thresholds = tuple(_as_levels(own, x, pack.bits))
    words = entry.outputs[pack.output]
    if words.ndim == 4:
        top, left, bottom, right = pack.pad
        words = words[:, top : words.shape[1] - bottom, left : words.shape[2] - right]
    codes = packing.unpack_codes(words, pack.channels, pack.bits, pack.groups)
    levels = tuple(np.ascontiguousarray(codes > rank) for rank in _ranks(thresholds, pack.compare))
    return Packed(x, thresholds, pack.compare, levels)


def _named(entry: TraceEntry, place: str) -> Array | None:
    """The tensor that a manifest calls "argument:i" or "output:i" of a kernel call."""
    kind, number = place.split(":")
    return (entry.inputs if kind == "argument" else entry.outputs)[int(number)]


def _as_levels(thresholds: Array, x: Array, bits: int) -> list[Array]:
    """Thresholds ``[L, ...]`` in whatever shape the kernel was given, as L tensors of x's rank."""
    count = 2**bits - 1
    if thresholds.size == count * x.shape[-1]:  # one per channel
        shape = (count, *(1 for _ in x.shape[:-1]), x.shape[-1])
    else:
        shape = (count, *thresholds.shape[-x.ndim :])
    return list(thresholds.reshape(shape))


def _ranks(thresholds: Sequence[Array], compare: str) -> list[Any]:
    """For each level, how many others an x passes first: level l is passed where code > rank."""
    ranks: list[Any] = []
    for at, one in enumerate(thresholds):
        rank: Any = 0
        for other_at, other in enumerate(thresholds):
            easier = other < one if compare in ("ge", "gt") else other > one
            rank = rank + (easier | ((other == one) & (other_at < at)))
        ranks.append(rank)
    return ranks
