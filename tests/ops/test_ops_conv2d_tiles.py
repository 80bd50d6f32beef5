"""conv2d_tiles without a schedule, the layout of its weight, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference
from tvm_insta.ops.tile_numbers import TILE_UNITS, narrow_tiles

KINDS = {"bf16": ("bf16", 0), "signed": ("int8", 0), "unsigned": ("int8", 128)}

# batch, height, width, channels, out, kernel, strides, padding
SHAPES = [
    (2, 9, 8, 3, 32, (7, 7), (2, 2), (3, 3, 3, 3)),  # 21 of 64 bytes, 42 of 64
    (1, 9, 11, 3, 16, (3, 3), (1, 1), (1, 1, 1, 1)),
    (2, 5, 6, 5, 48, (2, 2), (2, 1), (0, 1, 2, 1)),
    (1, 5, 7, 33, 16, (1, 3), (1, 1), (0, 0, 0, 0)),  # a unit that ends within a tap
    (2, 1, 1, 100, 32, (1, 1), (1, 1), (0, 0, 0, 0)),
]


def problem(rng, kind, shape):
    kind, zero = KINDS[kind]
    batch, height, width, channels, out, kernel, strides, padding = shape
    data = rng.standard_normal((batch, height, width, channels), np.float32)
    weight = rng.standard_normal((out, *kernel, channels), np.float32)
    tiled, sums, steps = narrow_tiles(weight, kind)
    attrs = {"kind": kind, "kernel_width": kernel[1], "strides": strides, "padding": padding}
    if kind == "int8":
        attrs |= {"scale": 127 / float(np.abs(data).max()), "zero": zero}
    return data, weight, tiled, sums, steps, attrs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unscheduled_kernel(rng, run_op, kind, shape):
    """Bit for bit, for no subnormal number appears."""
    data, _, tiled, _, _, attrs = problem(rng, kind, shape)
    expected = reference.conv2d_tiles(data, tiled, **attrs)
    result = run_op(ops.conv2d_tiles, data, tiled, **attrs)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_of_conv2d_narrow(rng, kind, shape):
    """The same integers; bfloat16 within the rounding of sums of the same products."""
    data, weight, tiled, _, _, attrs = problem(rng, kind, shape)
    packed, _, _ = packing.narrow_weight(weight, attrs["kind"], 16)
    expected = reference.conv2d_narrow(data, packed, **attrs)
    got = reference.conv2d_tiles(data, tiled, **attrs)
    if kind != "bf16":
        np.testing.assert_array_equal(got, expected)
        return
    geometry = {"strides": attrs["strides"], "padding": attrs["padding"]}
    magnitude = reference.conv2d(np.abs(data), np.abs(weight), **geometry)
    assert (np.abs(got - expected) <= weight[0].size * 2.0**-24 * 1.1 * magnitude).all()


@pytest.mark.parametrize("kind", TILE_UNITS)
def test_layout_of_the_weight(rng, kind):
    """One number set: it is where the docstring has it."""
    unit = TILE_UNITS[kind]
    for _ in range(20):
        out, rows, width, channels = rng.integers(1, 5, 4) * [16, 1, 1, 9]
        o, ky, kx, c = (int(rng.integers(size)) for size in (out, rows, width, channels))
        weight = np.zeros((out, rows, width, channels), np.float32)
        weight[o, ky, kx, c] = -1
        tiled, _, _ = narrow_tiles(weight, kind)
        u, k = divmod(kx * int(channels) + c, unit.numbers)
        (found,) = np.argwhere(tiled)
        place = unit.lane * (o % 16) + k % unit.lane
        assert tuple(found) == (o // 16, ky, u, k // unit.lane, place)
        assert tiled[tuple(found)] == (0xBF80 if kind == "bf16" else -127)


def test_order_of_sums():
    """Two chains of a unit, whose sum is added to the others: where that shows."""
    data, weight = np.ones((1, 1, 1, 64), np.float32), np.zeros((16, 1, 1, 64), np.float32)
    weight[:, 0, 0, [0, 1, 2]] = 2.0**24, -(2.0**24), 1  # 2^24 + 1 is 2^24 to nearest even
    weight[:, 0, 0, [32, 33]] = 1, 2.0**-30
    tiled, _, _ = narrow_tiles(weight, "bf16")
    got = reference.conv2d_tiles(data, tiled, kind="bf16", kernel_width=1)
    assert (got == 1).all()
    weight[:, 0, 0, [0, 1, 2]] = 1, 2.0**24, -(2.0**24)  # -2^24 + 1 is exact
    tiled, _, _ = narrow_tiles(weight, "bf16")
    assert (reference.conv2d_tiles(data, tiled, kind="bf16", kernel_width=1) == 2).all()


def test_subnormal_numbers_are_zero():
    data = np.array([2.0**-127, 2.0**-100, 2.0**-100, 0], np.float32).reshape(1, 1, 1, 4)
    weight = np.zeros((16, 1, 1, 4), np.float32)
    weight[0, 0, 0, 0] = 2.0**20  # 0 * 2^20
    weight[1, 0, 0, 1] = 2.0**-27  # 2^-127, which is flushed
    weight[2, 0, 0, 1] = 2.0**-26  # 2^-126 is not
    weight[3, 0, 0, 1:3] = 2.0**-27  # two chains, each flushed, though their sum would stay
    tiled, _, _ = narrow_tiles(weight, "bf16")
    got = reference.conv2d_tiles(data, tiled, kind="bf16", kernel_width=1)[0, 0, 0, :4]
    assert got.tolist() == [0, 0, 2.0**-126, 0]


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        ({"kind": "fp8"}, "int8", "kind is 'fp8'; pass one of 'bf16', 'int8'"),
        ({"kind": "bf16"}, "int8", "kind='bf16' is for a weight of dtype uint16; got int8"),
        ({"scale": 0.0}, "int8", "scale is 0.0; pass a number above 0"),
        ({"zero": 1}, "int8", "zero is 1; pass 128 for uint8 codes or 0 for int8 codes"),
        ({"kernel_width": 22}, "int8", "dimension 2 of weight is 1, but must be 2"),
    ],
)
def test_errors(infer, change, dtype, message):
    attrs = {"kind": "int8", "kernel_width": 7, **change}
    with pytest.raises(OpError) as caught:
        infer(ops.conv2d_tiles, ((1, 9, 99, 3), "float32"), ((1, 7, 1, 16, 64), dtype), **attrs)
    assert message in str(caught.value)


def test_weights_that_do_not_fill_tiles():
    with pytest.raises(OpError, match="24 output channels do not fill tiles; pass a multiple of"):
        narrow_tiles(np.zeros((24, 1, 1, 4), np.float32), "int8")
