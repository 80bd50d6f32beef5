"""Numpy oracles: every operator of this package written for meaning, with the same signature.

They take and return arrays of the shapes and dtypes that the operators' docstrings give. Integer
results are exact; float results are computed in float64 and rounded once, except the moments, whose
order of float32 additions is part of their definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .packing import (
    LARGEST_CODE,
    ZERO_CODE,
    pack_bits,
    pack_codes,
    popcount,
    to_bf16,
    unblock_weight,
    unpack_codes,
    unpack_weight,
    unrun_weight,
    untile_weight,
)

Floats = NDArray[np.float32]
Words = NDArray[np.uint32]
Ints = NDArray[np.int32]

_COMPARE = {"ge": np.greater_equal, "gt": np.greater, "le": np.less_equal, "lt": np.less}


def _holds(x: Floats, threshold: Floats, compare: str, nan: bool) -> NDArray[np.bool_]:
    """Whether a comparison holds; `nan` says whether it does so for NaN."""
    unordered = np.isnan(x) | np.isnan(threshold)
    return np.asarray(np.where(unordered, nan, _COMPARE[compare](x, threshold)))


def threshold_pack(
    x: Floats,
    thresholds: Floats,
    *,
    bits: int = 1,
    compare: str = "ge",
    groups: int = 1,
    pad: Sequence[int] = (0, 0, 0, 0),
    nan: int = 0,
) -> Words:
    """Oracle of `insta.threshold_pack`."""
    codes = np.stack([_holds(x, t, compare, at < nan) for at, t in enumerate(thresholds)])
    packed = pack_codes(codes.sum(axis=0, dtype=np.uint8), bits, groups)
    if x.ndim == 2:
        return packed
    top, left, bottom, right = pad
    return np.pad(packed, ((0, 0), (top, bottom), (left, right), (0, 0)))


def threshold_signs(
    x: Floats,
    thresholds: Floats,
    *,
    compare: str = "ge",
    pad: Sequence[int] = (0, 0, 0, 0),
    nan: int = 0,
) -> NDArray[np.int8]:
    """Oracle of `insta.threshold_signs`."""
    signs = np.where(_holds(x, thresholds[0], compare, nan > 0), 1, -1).astype(np.int8)
    top, left, bottom, right = pad
    return np.pad(signs, ((0, 0), (top, bottom), (left, right), (0, -x.shape[3] % 32)))


def bitserial_conv2d(
    data: Words,
    weight: Words,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    in_channels: int,
    bits: int = 1,
    encoding: str = "bipolar",
) -> Ints:
    """Oracle of `insta.bitserial_conv2d`: unpack, then convolve the values with zero padding."""
    values = _values(unpack_codes(data, in_channels, bits, groups), bits, encoding)
    signs = unpack_weight(weight, in_channels // groups).astype(np.int64)
    return _convolve(values, signs, (strides, padding, dilation), groups).astype(np.int32)


def bitserial_conv2d_blocked(
    data: Words,
    weight: Words,
    base: Ints,
    row_class: Ints,
    col_class: Ints,
    *,
    strides: Sequence[int] = (1, 1),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    bits: int = 1,
    alpha: int = 2,
) -> Ints:
    """Oracle of `insta.bitserial_conv2d_blocked`: popcounts of differences, tap by tap."""
    canonical = unblock_weight(weight)
    out, kernel_h, kernel_w, words = canonical.shape
    split = data.reshape(*data.shape[:3], bits, groups, words)
    group = np.arange(out) // (out // groups)
    height, width = len(row_class), len(col_class)
    popsum = np.zeros((data.shape[0], height, width, out), dtype=np.int64)
    for ky, kx in np.ndindex(kernel_h, kernel_w):
        y, x = ky * dilation[0], kx * dilation[1]
        tap = split[:, y :: strides[0], x :: strides[1]][:, :height, :width]
        for plane in range(bits):
            differ = popcount(tap[:, :, :, plane, group] ^ canonical[:, ky, kx])
            popsum += differ.sum(axis=-1, dtype=np.int64) << plane
    result = base[row_class][:, col_class] - alpha * popsum
    return result.astype(np.int32, casting="same_kind")


def bitserial_conv2d_signs(
    data: Words | NDArray[np.int8],
    weight: Words | NDArray[np.int8],
    *,
    in_channels: int,
    kernel_width: int,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    weights: str = "bits",
    image: str = "bits",
    spare: int = 0,
) -> Ints:
    """Oracle of `insta.bitserial_conv2d_signs`: that of `bitserial_conv2d`, in another layout."""
    tiled = pack_bits(weight > 0) if weights == "bytes" else weight.astype(np.uint32, copy=False)
    if image == "bytes":
        values = data[:, : data.shape[1] - spare, :, :in_channels].astype(np.int64)
        words = untile_weight(tiled, in_channels, kernel_width)
        signs = unpack_weight(words, in_channels).astype(np.int64)
        return _convolve(values, signs, (strides, padding, (1, 1)), 1).astype(np.int32)
    return bitserial_conv2d(
        data.astype(np.uint32, copy=False),
        untile_weight(tiled, in_channels, kernel_width),
        strides=strides,
        padding=padding,
        in_channels=in_channels,
    )


def bitserial_conv2d_runs(
    data: Words,
    weight: Words,
    base: Ints,
    row_class: Ints,
    col_class: Ints,
    *,
    kernel_width: int,
    strides: Sequence[int] = (1, 1),
    bits: int = 1,
    alpha: int = 2,
) -> Ints:
    """Oracle of `insta.bitserial_conv2d_runs`: popcounts of what is common, tap by tap."""
    words = data.shape[3] // bits
    canonical = unrun_weight(weight, base.shape[2], kernel_width, words)
    split = data.reshape(*data.shape[:3], bits, words)
    height, width = len(row_class), len(col_class)
    total = np.zeros((data.shape[0], height, width, base.shape[2]), dtype=np.int64)
    for ky, kx in np.ndindex(canonical.shape[1:3]):
        tap = split[:, ky :: strides[0], kx :: strides[1]][:, :height, :width]
        for plane in range(bits):
            theirs = tap[:, :, :, plane, None]
            both = popcount(theirs & canonical[:, ky, kx]).sum(axis=-1, dtype=np.int64)
            ones = popcount(theirs).sum(axis=-1, dtype=np.int64)
            total += (2 * both - ones) << plane
    result = base[row_class][:, col_class] + alpha * total
    return result.astype(np.int32, casting="same_kind")


def bitserial_dense(
    data: Words, weight: Words, *, in_channels: int, bits: int = 1, encoding: str = "bipolar"
) -> Ints:
    """Oracle of `insta.bitserial_dense`."""
    values = _values(unpack_codes(data, in_channels, bits), bits, encoding)
    signs = unpack_weight(weight, in_channels).astype(np.int64)
    product: NDArray[np.int64] = values @ signs.T
    return product.astype(np.int32)


def conv2d(
    data: Floats,
    weight: Floats,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Floats:
    """Oracle of `insta.conv2d`."""
    wide = data.astype(np.float64), weight.astype(np.float64)
    return _convolve(*wide, (strides, padding, dilation), groups).astype(np.float32)


def convolution(data: Floats, weight: Floats, **attributes: Any) -> Floats:
    """Oracle of `insta.convolution`, whose images are [N, C, H, W]; attributes as `conv2d`."""
    image = data.transpose(0, 2, 3, 1)
    result = conv2d(image, weight.transpose(0, 2, 3, 1), **attributes)
    return np.asarray(result.transpose(0, 3, 1, 2))


def bitserial_product(
    left: Words,
    right: Words,
    *,
    in_channels: int,
    left_bits: int = 1,
    right_bits: int = 1,
    left_encoding: str = "bipolar",
    right_encoding: str = "bipolar",
) -> Ints:
    """Oracle of `insta.bitserial_product`: the codes are unpacked and multiplied as integers."""
    values = []
    for words, own, encoding in (
        (left, left_bits, left_encoding),
        (right, right_bits, right_encoding),
    ):
        codes = unpack_codes(words, in_channels, own, 1).astype(np.int64)
        offsets = {"bipolar": (2, 1 - 2**own), "unsigned": (1, 0), "ternary": (2, -2)}
        step, base = offsets[encoding]
        values.append(step * codes + base)
    return np.asarray(values[0] @ values[1].swapaxes(-1, -2), np.int32)


def product(left: Floats, right: Floats) -> Floats:
    """Oracle of `insta.product`."""
    exact = left.astype(np.float64) @ right.astype(np.float64).swapaxes(-1, -2)
    return np.asarray(exact, np.float32)


def dense(data: Floats, weight: Floats) -> Floats:
    """Oracle of `insta.dense`."""
    return (data.astype(np.float64) @ weight.astype(np.float64)).astype(np.float32)


def levels(
    x: Floats, *thresholds: Floats, base: float, step: float, compare: str = "ge", nan: int = 0
) -> Floats:
    """Oracle of `insta.levels`; thresholds broadcast to x as numpy has it."""
    holds = (_holds(x, threshold, compare, at < nan) for at, threshold in enumerate(thresholds))
    count = sum(each.astype(np.float32) for each in holds)
    return np.asarray(np.float32(base) + np.float32(step) * count, np.float32)


def conv2d_blocked(
    data: Floats,
    weight: Floats,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Floats:
    """Oracle of `insta.conv2d_blocked`."""
    return conv2d(
        data,
        unblock_weight(weight),
        strides=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def conv2d_narrow(
    data: Floats,
    weight: Words,
    *,
    kind: str,
    kernel_width: int,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    scale: float = 1.0,
    zero: int = ZERO_CODE,
) -> NDArray[Any]:
    """Oracle of `insta.conv2d_narrow`; exact for "int8"."""
    units = unblock_weight(weight)  # [O, KH, 1, U]
    out, rows = units.shape[:2]
    numbers = units.reshape(out, rows, -1).astype("<u4").view("u2" if kind == "bf16" else "i1")
    taps = numbers[:, :, : kernel_width * data.shape[3]].reshape(out, rows, kernel_width, -1)
    geometry = (strides, padding, (1, 1))
    if kind == "bf16":
        wide = _from_bf16(to_bf16(data)), _from_bf16(np.ascontiguousarray(taps))
        result: Floats = _convolve(*wide, geometry, 1).astype(np.float32)
        return result
    steps = np.rint(data * np.float32(scale))
    codes = np.clip(steps, -LARGEST_CODE, LARGEST_CODE).astype(np.int64)
    exact = _convolve(codes, taps.astype(np.int64), geometry, 1)
    sums = taps.reshape(out, -1).sum(axis=1, dtype=np.int64)
    sums_added: Ints = (exact + zero * sums).astype(np.int32)
    return sums_added


def conv2d_tiles(
    data: Floats,
    weight: NDArray[Any],
    *,
    kind: str,
    kernel_width: int,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    scale: float = 1.0,
    zero: int = 0,
) -> NDArray[Any]:
    """Oracle of `insta.conv2d_tiles`, bit for bit; for finite data."""
    blocks, rows, units, _, numbers = weight.shape
    # [O, KH, U, G], number k of a unit at k
    run = weight.reshape(blocks, rows, units, 16, 16, -1).transpose(0, 4, 1, 2, 3, 5)
    run = np.ascontiguousarray(run).reshape(blocks * 16, rows, units, numbers)
    top, left, bottom, right = padding
    padded = np.pad(data, ((0, 0), (top, bottom), (left, right), (0, 0)))
    depth = data.shape[3]
    height = (padded.shape[1] - rows) // strides[0] + 1
    width = (padded.shape[2] - kernel_width) // strides[1] + 1
    if kind == "bf16":
        total: NDArray[Any] = np.zeros((len(data), height, width, blocks * 16), np.float32)
        codes, taps = _flushed(_from_bf16(to_bf16(padded))), _flushed(_from_bf16(run))
    else:
        total = np.zeros((len(data), height, width, blocks * 16), np.int64)
        steps = np.clip(np.rint(padded * np.float32(scale)), -LARGEST_CODE, LARGEST_CODE)
        codes, taps = steps.astype(np.int64) + zero, run.astype(np.int64)
    for ky, unit in np.ndindex(rows, units):
        chains = [np.zeros_like(total), np.zeros_like(total)]
        for k in range(min(numbers, kernel_width * depth - unit * numbers)):
            kx, channel = divmod(unit * numbers + k, depth)
            seen = codes[:, ky :: strides[0], kx :: strides[1], channel]
            seen = seen[:, :height, :width, None]
            if kind == "bf16":
                chains[k % 2] = _flushed(_fma(seen, taps[:, ky, unit, k], chains[k % 2]))
            else:
                total += seen * taps[:, ky, unit, k]
        if kind == "bf16":
            total = _flushed(total + _flushed(chains[0] + chains[1]))
    return total if kind == "bf16" else total.astype(np.int32)


def _flushed(values: NDArray[Any]) -> NDArray[Any]:
    """Subnormal numbers of float32 as zeros of their sign."""
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, values * 0, values)


def _from_bf16(codes: NDArray[np.uint16]) -> NDArray[np.float64]:
    return (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def moments(x: Floats, orders: Sequence[int] = (3,), *, fused: bool = False) -> Floats:
    """Oracle of `insta.moments`, bit for bit; `fused`: for a target with fused multiply-add."""
    return moment_mean(moment_rows(x, orders, fused=fused), width=x.shape[2])


def moment_rows(x: Floats, orders: Sequence[int] = (3,), *, fused: bool = False) -> Floats:
    """Oracle of `insta.moment_rows`, bit for bit; `fused`: for a target with fused multiply-add."""
    batch, height, width, channels = x.shape
    rows = np.zeros((batch, height, len(orders), channels), dtype=np.float32)
    for position, order in enumerate(orders):
        power = np.ones_like(x) if order == 1 else x.copy()
        for _ in range(order - 2):
            power *= x
        for column in range(width):
            last = (power[:, :, column], x[:, :, column], rows[:, :, position])
            rows[:, :, position] = _fma(*last) if fused else last[0] * last[1] + last[2]
    return rows


def moment_mean(rows: Floats, width: int) -> Floats:
    """Oracle of `insta.moment_mean`, bit for bit."""
    total = np.zeros(rows.shape[:1] + rows.shape[2:], dtype=np.float64)
    for row in range(rows.shape[1]):
        total += rows[:, row]
    result: Floats = (total / (rows.shape[1] * width)).astype(np.float32)
    return result


def _fma(a: Floats, b: Floats, c: Floats) -> Floats:
    """One rounding of a * b + c, by way of float64 rounded to odd, which is as good as exact."""
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)  # the product is exact
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.copysign(np.inf, error))
    return np.where(np.isfinite(error) & (error != 0) & even, odd, total).astype(np.float32)


def instance_threshold(m: Floats, a: Floats, b: Floats, *excitation: Floats) -> Floats:
    """Oracle of `insta.instance_threshold`."""
    wide = [array.astype(np.float64) for array in (m, a, b, *excitation)]
    result: NDArray[np.float64] = wide[1] * wide[0] + wide[2]
    if excitation:
        w1, b1, w2, b2 = wide[3:]
        hidden = np.maximum(wide[0] @ w1.T + b1, 0)
        result = result + np.tanh(hidden @ w2.T + b2)
    return result.astype(np.float32)


def moment_quotient(moments: Floats, *, offset: float) -> Floats:
    """Oracle of `insta.moment_quotient`, bit for bit."""
    result: Floats = moments[:, 1] / (moments[:, 0] + np.float32(offset))
    return result


def halving_pool(data: Floats) -> Floats:
    """Oracle of `insta.halving_pool`, bit for bit."""
    rows, columns = data.shape[1] // 2 * 2, data.shape[2] // 2 * 2
    a, b, c, d = (data[:, y:rows:2, x:columns:2] for y in (0, 1) for x in (0, 1))
    result: Floats = (((a + b) + c) + d) * np.float32(0.25)
    return result


def repeat_channels(data: Floats, *, times: int) -> Floats:
    """Oracle of `insta.repeat_channels`."""
    return np.tile(data, (1, 1, 1, times))


def round_half(data: Floats, *, to: str) -> Floats:
    """Oracle of `insta.round_half`: in float64, as multiples of the step of the result."""
    fraction, smallest, largest = (7, -126, 2.0**128) if to == "bfloat16" else (10, -14, 2.0**16)
    with np.errstate(invalid="ignore"):  # NaN and infinities, which stay
        wide = data.astype(np.float64)
        step = np.ldexp(1.0, np.maximum(np.frexp(wide)[1] - 1, smallest) - fraction)
        result = np.copysign(np.abs(np.rint(wide / step) * step), wide)
    result = np.where(np.abs(result) >= largest, np.copysign(np.inf, wide), result)
    return np.where(np.isfinite(wide), result, wide).astype(np.float32)


def _values(codes: NDArray[np.uint8], bits: int, encoding: str) -> NDArray[np.int64]:
    """Activation values of codes: the code (unsigned), or 2 * code - (2**bits - 1) (bipolar)."""
    values = codes.astype(np.int64)
    return values if encoding == "unsigned" else 2 * values - (2**bits - 1)


def _convolve(
    data: NDArray[Any],
    weight: NDArray[Any],
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int]],
    groups: int,
) -> NDArray[Any]:
    """NHWC convolution with zero padding, tap by tap, in the dtype of its arguments."""
    strides, padding, dilation = geometry
    top, left, bottom, right = padding
    padded = np.pad(data, ((0, 0), (top, bottom), (left, right), (0, 0)))
    out, kernel_h, kernel_w, per_group = weight.shape
    height = (padded.shape[1] - dilation[0] * (kernel_h - 1) - 1) // strides[0] + 1
    width = (padded.shape[2] - dilation[1] * (kernel_w - 1) - 1) // strides[1] + 1
    split = padded.reshape(*padded.shape[:3], groups, per_group)
    filters = weight.reshape(groups, out // groups, kernel_h, kernel_w, per_group)
    result = np.zeros((data.shape[0], height, width, groups, out // groups), dtype=data.dtype)
    for ky, kx in np.ndindex(kernel_h, kernel_w):
        y, x = ky * dilation[0], kx * dilation[1]
        tap = split[:, y :: strides[0], x :: strides[1]][:, :height, :width]
        result += np.einsum("nyxgc,goc->nyxgo", tap, filters[:, :, ky, kx])
    return result.reshape(data.shape[0], height, width, out)
