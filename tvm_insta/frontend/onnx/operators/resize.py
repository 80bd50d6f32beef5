"""Resize and Upsample by the nearest neighbour, by gathering rows and columns."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.limits import DIM, check_shape
from tvm_insta.frontend.onnx.operators.registry import Constant, Context, Ints, axis_of, operator

_Nearest = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
_Place = Literal[
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"
]


def _source(i: int, scale: float, size: int, result: int, place: str) -> float:
    """Where element ``i`` of the result lies in the original."""
    if place == "asymmetric":
        return i / scale
    if place == "align_corners":
        return 0.0 if result == 1 else i * (size - 1) / (result - 1)
    if place == "pytorch_half_pixel" and result == 1:
        return 0.0
    if place == "half_pixel_symmetric":
        adjust = result / (scale * size)
        return size / 2 * (1 - adjust) + (i + 0.5) / scale - 0.5
    return (i + 0.5) / scale - 0.5


def _nearest(x: float, mode: str) -> int:
    if mode == "round_prefer_floor":
        return math.ceil(x - 0.5)
    if mode == "round_prefer_ceil":
        return math.floor(x + 0.5)
    return math.floor(x) if mode == "floor" else math.ceil(x)


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


@operator("Resize", ignored=("cubic_coeff_a", "exclude_outside", "extrapolation_value"))
def resize(
    x: Tensor,
    roi: Constant | None = None,
    scales: Constant | None = None,
    sizes: Ints | None = None,
    *,
    antialias: bool = False,
    axes: tuple[int, ...] | None = None,
    coordinate_transformation_mode: _Place = "half_pixel",
    keep_aspect_ratio_policy: Literal["stretch"] = "stretch",
    mode: Literal["nearest"] = "nearest",
    nearest_mode: _Nearest = "round_prefer_floor",
    context: Context,
) -> Tensor:
    """``x`` in another size; each element is the nearest one of the original.

    Version 10 had the scales as its second input, and one meaning only.
    """
    if context.opset == 10:
        scales, coordinate_transformation_mode, nearest_mode = roi, "asymmetric", "floor"
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
    for i, axis in enumerate(chosen):
        if axis < 2:  # a batch and its channels keep their size, whatever the batch was written as
            if factors and factors[i] != 1.0:
                raise ImportModelError("it resizes the batch or the channels, which is not taken")
            if axis == 1 and wanted and wanted[i] != x.shape[1]:
                raise ImportModelError("it resizes the channels, which is not taken")
            continue
        result = math.floor(x.shape[axis] * factors[i]) if factors else int(wanted[i])
        check_shape([*x.shape[2:axis], result, *x.shape[axis + 1 :]], "its result")
        if result < 1:
            raise ImportModelError(f"axis {axis} would have length {result}")
        scale = factors[i] if factors else result / x.shape[axis]
        x = _resized(x, axis, result, scale, coordinate_transformation_mode, nearest_mode)
    return x


@operator("Upsample")
def upsample(
    x: Tensor,
    factors: Constant | None = None,
    *,
    mode: Literal["nearest"] = "nearest",
    scales: tuple[float, ...] | None = None,
) -> Tensor:
    """`Resize` of versions before 10: every element several times."""
    given = scales or (() if factors is None else tuple(factors.array.reshape(-1).tolist()))
    if len(given) != x.ndim or not all(1 <= factor <= 64 for factor in given):
        raise ImportModelError(f"its scales are {list(given)[:8]}, but 1 to 64 per axis are taken")
    for axis, factor in enumerate(given):
        if factor != 1:
            result = math.floor(x.shape[axis] * factor)
            x = _resized(x, axis, result, factor, "asymmetric", "floor")
    return x
