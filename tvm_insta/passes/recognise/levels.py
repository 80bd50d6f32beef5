"""What is known of a tensor that comes from comparisons: levels, and the thresholds between them.

A binarised activation is ``base + step * code`` where ``code`` counts how many thresholds ``x``
passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.passes.rewriter import Array, Expr

_TOLERANCE = 1e-6  # relative; straight-through arithmetic (a - b) + b leaves rounding behind


@dataclass(frozen=True)
class Encoding:
    """``factor`` times the integers that `ops.bitserial_conv2d` takes the packed bits for.

    Attributes:
        name: "bipolar" (odd integers about 0) or "unsigned" (0 and up); "ternary" (-2, 0 and 2)
            for factors of `ops.bitserial_product` only.
        bits: of each activation.
        factor: of the integers.
    """

    name: str
    bits: int
    factor: float


@dataclass(frozen=True)
class Levels:
    """A tensor equal to ``base + step * |{l : x compare thresholds[l]}|``, with step > 0.

    Attributes:
        x: the compared tensor, with the shape of the result.
        compare: "ge", "gt", "le" or "lt".
        thresholds: one expression per level, each broadcastable to ``x``.
        base: value when no threshold is passed.
        step: value added by each threshold that is passed.
        nan: how many comparisons count as held for NaN.
        site: key of `Imported.sites`.
    """

    x: Expr
    compare: str
    thresholds: tuple[Expr, ...]
    base: float
    step: float
    nan: int = 0
    site: str = ""

    @staticmethod
    def of(call: Call) -> Levels:
        """What a call of `insta.levels` says."""
        (x, *thresholds), said = call.args, ops.levels.of(call)
        return Levels(x, said.compare, tuple(thresholds), said.base, said.step, said.nan, said.site)

    def encoding(self) -> Encoding | str:
        """How the values are packed, or the reason why they cannot be."""
        count = len(self.thresholds)
        bits = (count + 1).bit_length() - 1
        if 2**bits != count + 1 or bits > 4:
            return f"its input has {count + 1} levels, but only 2, 4, 8 or 16 can be packed"
        if self.base == 0:
            return Encoding("unsigned", bits, self.step)
        if abs(self.base + 0.5 * self.step * count) <= _TOLERANCE * self.step:
            return Encoding("bipolar", bits, 0.5 * self.step)
        if count == 3 and self.base == -self.step:  # the fourth level is never reached
            return Encoding("ternary", bits, 0.5 * self.step)
        top = self.base + self.step * count
        return (
            f"its input takes values from {self.base:g} to {top:g}, but levels must start at 0 or "
            "lie symmetrically about 0"
        )


def binary_weight(weight: Array) -> tuple[Array, Array] | str:
    """Split ``[O, ...]`` weights into signs (bool, True = +1) and scales ``[O]``, or say why not.

    Every weight of an output channel must have the same magnitude, to a relative 1e-6; an all-zero
    channel has scale 0.
    """
    flat: Any = weight.reshape(weight.shape[0], -1).astype(np.float64)
    magnitude = np.abs(flat)
    scale = magnitude.mean(axis=1)
    spread = np.abs(magnitude - scale[:, None]).max(axis=1)
    bad = spread > _TOLERANCE * scale
    if bad.any():
        channel = int(np.argmax(bad))
        distinct = len(np.unique(magnitude[channel]))
        if len(np.unique(flat[channel])) == 3 and (flat[channel] == 0).any():
            return (
                f"its weights are ternary (0 and +-{magnitude[channel].max():g} in output channel "
                f"{channel}), and a bit has no third value"
            )
        return (
            f"its weights are real-valued ({distinct} distinct magnitudes in output channel "
            f"{channel})"
        )
    return weight >= 0, scale.astype(np.float32)
