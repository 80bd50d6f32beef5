"""Resize and Upsample: rows and columns are gathered, and weighted between neighbours."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.limits import DIM, check_shape
from tvm_insta.frontend.onnx.operators.registry import Constant, Context, Ints, axis_of, operator

_Nearest = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
_Mode = Literal["nearest", "linear", "cubic"]
_Place = Literal[
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"
]
_F = np.float32
"""Lengths and places are computed in it, as ONNX Runtime does: floor(10 * 0.7) is 7 there, and a
place in the middle between two elements lies on one side of it or the other."""
_TIE = 1e-6
"""A place that is as near as this to the middle of two elements is there: ONNX Runtime's."""


def _length(size: int, factor: float) -> int:
    """The length of an axis of ``size`` elements that is scaled."""
    return int(_F(size) * _F(factor))


def _source(i: int, scale: float, size: int, result: int, place: str) -> float:
    """Where element ``i`` of the result lies in the original."""
    step = _F(scale)
    if place == "asymmetric":
        return float(_F(i) / step)
    if place == "align_corners":
        return 0.0 if result == 1 else float(_F(i) * _F(size - 1) / _F(result - 1))
    if place == "pytorch_half_pixel" and result == 1:
        return 0.0
    if place == "half_pixel_symmetric":  # partly in float64
        cut = _F(1) - _F(result) / (step * _F(size))
        return float(_F(float(_F(size) / _F(2) * cut) + (i + 0.5) / float(step) - 0.5))
    return float((_F(i) + _F(0.5)) / step - _F(0.5))


def _nearest(x: float, mode: str) -> int:
    if mode in ("floor", "ceil"):
        return math.floor(x) if mode == "floor" else math.ceil(x)
    below = math.floor(x)
    if abs(x - below - 0.5) <= _TIE:
        return below + (mode == "round_prefer_ceil")
    return below + (x - below > 0.5)


def _resized(x: Tensor, axis: int, result: int, scale: float, place: str, mode: str) -> Tensor:
    size = x.shape[axis]
    chosen = [
        min(max(_nearest(_source(i, scale, size, result, place), mode), 0), size - 1)
        for i in range(result)
    ]
    if chosen == list(range(size)):
        return x
    if result % size == 0 and chosen == [i // (result // size) for i in range(result)]:
        return x.repeat_interleave(result // size, axis)
    return torch.index_select(x, axis, torch.tensor(chosen, dtype=torch.int64))


@dataclass(frozen=True)
class _Spline:
    """How a value between elements is made of its neighbours.

    Attributes:
        cubic: of four of them, else of two.
        a: the coefficient of the cubic kernel.
        inside: whether neighbours outside the image are left out, else the rim is repeated.
    """

    cubic: bool
    a: float = -0.75
    inside: bool = False

    def weights(self, fraction: float) -> list[tuple[int, float]]:
        """Neighbours, counted from the one below, and their weights."""
        if not self.cubic:
            return [(0, 1.0 - fraction), (1, fraction)]
        a = self.a
        near = [((a + 2) * t - (a + 3)) * t * t + 1 for t in (fraction, 1 - fraction)]
        far = [((a * t - 5 * a) * t + 8 * a) * t - 4 * a for t in (1 + fraction, 2 - fraction)]
        return [(-1, far[0]), (0, near[0]), (1, near[1]), (2, far[1])]


def _between(
    x: Tensor, axis: int, result: int, scale: float, place: str, spline: _Spline
) -> Tensor:
    """An axis in another length; values between elements are weighted means of neighbours."""
    size = x.shape[axis]
    rows = []
    for i in range(result):
        at = _source(i, scale, size, result, place)
        below = math.floor(at)
        found = [(below + step, weight) for step, weight in spline.weights(at - below)]
        if spline.inside:
            found = [(j, weight if 0 <= j < size else 0.0) for j, weight in found]
            total = sum(weight for _, weight in found)
            found = [(j, weight / total) for j, weight in found]
        rows.append([(min(max(j, 0), size - 1), weight) for j, weight in found])
    every = [(i, j, weight) for i, row in enumerate(rows) for j, weight in row]
    if result == size and all(weight == (1.0 if j == i else 0.0) for i, j, weight in every):
        return x
    shape = [1] * x.ndim
    shape[axis] = -1
    parts = []
    for taps in zip(*rows, strict=True):
        chosen = torch.tensor([j for j, _ in taps], dtype=torch.int64)
        factor = torch.tensor([weight for _, weight in taps], dtype=torch.float32)
        parts.append(torch.index_select(x, axis, chosen) * factor.reshape(shape))
    return functools.reduce(torch.add, parts)


@operator("Resize", ignored=("extrapolation_value",))
def resize(
    x: Tensor,
    roi: Constant | None = None,
    scales: Constant | None = None,
    sizes: Ints | None = None,
    *,
    antialias: bool = False,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: _Place = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
    keep_aspect_ratio_policy: Literal["stretch"] = "stretch",
    mode: _Mode = "nearest",
    nearest_mode: _Nearest = "round_prefer_floor",
    context: Context,
) -> Tensor:
    """``x`` in another size, by the nearest element, or between two or four of each axis.

    Version 10 had the scales as its second input, and one meaning only: the element below, or the
    one above where the axis becomes shorter, as the examples of the standard have it.
    """
    if context.opset == 10:
        scales, coordinate_transformation_mode, nearest_mode = roi, "asymmetric", "floor"
    if antialias and mode != "nearest":
        raise ImportModelError("it smooths before it shrinks (antialias), which is not taken")
    spline = _Spline(mode == "cubic", cubic_coeff_a, exclude_outside)
    chosen = [axis_of(axis, x.ndim) for axis in (range(x.ndim) if axes is None else axes)]
    factors = [] if scales is None else [float(scale) for scale in scales.array.reshape(-1)]
    wanted = list(sizes or ())
    if (not factors) == (not wanted) or len(factors or wanted) != len(chosen):
        raise ImportModelError(
            f"it has {len(factors)} scales and {len(wanted)} sizes, but one of them is needed, "
            f"with {len(chosen)} numbers"
        )
    if not all(math.isfinite(factor) and 0 < factor <= DIM for factor in factors):
        raise ImportModelError(f"its scales are {factors}, but positive numbers are needed")
    place = coordinate_transformation_mode
    for axis, (result, scale) in _changes(x, chosen, factors, wanted).items():
        if mode == "nearest":
            smaller = context.opset == 10 and scale < 1
            x = _resized(x, axis, result, scale, place, "ceil" if smaller else nearest_mode)
        else:
            x = _between(x, axis, result, scale, place, spline)
    return x


def _changes(
    x: Tensor, axes: Sequence[int], factors: Sequence[float], wanted: Sequence[int]
) -> dict[int, tuple[int, float]]:
    """The new length of each axis and its scale: ``factors``, or what gives the lengths ``wanted``.

    A batch keeps its size, whatever it was written as. Rows may be axis 1: channels are last then.
    """
    found: dict[int, tuple[int, float]] = {}
    for i, axis in enumerate(axes):
        if axis == 0:
            if factors and factors[i] != 1.0:
                raise ImportModelError("it resizes the batch, which is not taken")
            continue
        result = _length(x.shape[axis], factors[i]) if factors else int(wanted[i])
        check_shape([*x.shape[1:axis], result, *x.shape[axis + 1 :]], "its result")
        if result < 1:
            raise ImportModelError(f"axis {axis} would have length {result}")
        found[axis] = result, factors[i] if factors else result / x.shape[axis]
    # ONNX Runtime hands over what keeps its size, even where a scale of 1.1 would move places.
    same = all(result == x.shape[axis] for axis, (result, _) in found.items())
    return {} if same else found


@operator("Upsample")
def upsample(
    x: Tensor,
    factors: Constant | None = None,
    *,
    mode: Literal["nearest", "linear", "bilinear"] = "nearest",
    scales: tuple[float, ...] | None = None,
) -> Tensor:
    """`Resize` of versions before 10: every element several times, or between two."""
    given = scales or (() if factors is None else tuple(factors.array.reshape(-1).tolist()))
    if len(given) != x.ndim or not all(1 <= factor <= 64 for factor in given):
        raise ImportModelError(f"its scales are {list(given)[:8]}, but 1 to 64 per axis are taken")
    found = {a: (_length(x.shape[a], f), f) for a, f in enumerate(given) if f != 1}
    if all(result == x.shape[axis] for axis, (result, _) in found.items()):  # as in `_changes`
        return x
    for axis, (result, factor) in found.items():
        if mode == "nearest":
            x = _resized(x, axis, result, factor, "asymmetric", "floor")
        else:
            x = _between(x, axis, result, factor, "asymmetric", _Spline(cubic=False))
    return x


_Sampled = Literal["bilinear", "linear", "nearest"]


@operator("GridSample")
def grid_sample(
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: bool = False,
    mode: _Sampled | None = None,
    padding_mode: Literal["zeros", "border"] = "zeros",
) -> Tensor:
    """Pixels at the places of a grid ``[N, H, W, 2]`` of numbers in -1..1."""
    if x.ndim != 4:
        raise ImportModelError(f"an input of {x.ndim} dimensions is no batch of images")
    kind = "nearest" if mode == "nearest" else "bilinear"
    return F.grid_sample(x, grid, kind, padding_mode, align_corners)
