"""bitserial_conv2d_signs without a schedule, the layout of its weight, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference

# height, width, channels, out, kernel, strides, padding: every border class is in the first
SHAPES = [
    (4, 5, 40, 16, (3, 3), (1, 1), (1, 1, 1, 1)),
    (6, 5, 64, 32, (3, 2), (2, 1), (0, 1, 2, 0)),
    (3, 3, 4, 16, (1, 1), (2, 2), (0, 0, 0, 0)),
    (1, 1, 32, 16, (3, 3), (1, 1), (1, 1, 1, 1)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(rng, run_op, shape):
    height, width, channels, out, kernel, strides, padding = shape
    codes = rng.integers(0, 2, (2, height, width, channels))
    signs = rng.choice([-1, 1], (out, *kernel, channels))
    data, weight = packing.pack_codes(codes, 1), packing.pack_weight(signs)
    tiled = packing.tile_weight(weight, channels)
    geometry = {"strides": strides, "padding": padding, "in_channels": channels}
    expected = reference.bitserial_conv2d(data, weight, **geometry)
    attrs = {**geometry, "kernel_width": kernel[1]}
    octets = packing.tile_bytes(tiled, channels, kernel[1])
    for weights, own in (("bits", tiled), ("bytes", octets)):
        attrs["weights"] = weights
        result = run_op(ops.bitserial_conv2d_signs, data, own, **attrs)
        np.testing.assert_array_equal(result, expected)
        oracle = reference.bitserial_conv2d_signs(data, own, **attrs)
        np.testing.assert_array_equal(oracle, expected)


def test_layout_of_the_weight(rng):
    """One bit at a time, by the words of the docstring."""
    channels, out, kernel = 36, 32, (2, 3)
    signs = rng.choice([-1, 1], (out, *kernel, channels))
    weight = packing.pack_weight(signs)
    tiled = packing.tile_weight(weight, channels)
    assert tiled.shape == (2, 2, 3, 16, 2) and tiled.dtype == np.uint32
    wide = tiled[..., 0].astype(np.uint64) | (tiled[..., 1].astype(np.uint64) << np.uint64(32))
    for o, ky, kx, c in np.ndindex(signs.shape):
        unit, k = divmod(kx * 64 + c, 64)
        row = int(wide[o // 16, ky, unit, k // 4])
        assert (row >> (o % 16 * 4 + k % 4)) & 1 == (signs[o, ky, kx, c] == 1)
    ones = sum(int(word).bit_count() for word in tiled.ravel())
    assert ones == int((signs == 1).sum())  # all other bits are 0
    np.testing.assert_array_equal(packing.untile_weight(tiled, channels, 3), weight)
    octets = packing.tile_bytes(tiled, channels, 3)
    assert octets.shape == (2, 2, 3, 16, 64) and octets.dtype == np.int8
    for o, ky, kx, c in np.ndindex(signs.shape):
        unit, k = divmod(kx * 64 + c, 64)
        assert octets[o // 16, ky, unit, k // 4, o % 16 * 4 + k % 4] == signs[o, ky, kx, c]
    assert np.count_nonzero(octets) == signs.size  # all other bytes are 0


def test_channels_that_do_not_fill_tiles():
    with pytest.raises(OpError, match="24 output and 32 input channels do not fill tiles"):
        packing.tile_weight(np.zeros((24, 1, 1, 1), np.uint32), 32)


def test_bytes_behind_the_last_tap_are_zero(rng):
    """A run of 3 x 32 bytes ends within its second unit."""
    weight = packing.pack_weight(rng.choice([-1, 1], (16, 1, 3, 32)))
    octets = packing.tile_bytes(packing.tile_weight(weight, 32), 32, 3)
    assert octets[:, :, 0].all() and octets[:, :, 1, :8].all() and not octets[:, :, 1, 8:].any()


@pytest.mark.parametrize("weights", ["bits", "bytes"])
def test_the_dtype_says_what_a_weight_holds(infer, weights):
    dtype, wrong = {"bits": ("uint32", "int8"), "bytes": ("int8", "uint32")}[weights]
    message = f"weights='{weights}' is for a weight of dtype {dtype}; got {wrong}"
    with pytest.raises(OpError, match=message):
        infer(
            ops.bitserial_conv2d_signs,
            ((1, 9, 9, 2), "uint32"),
            ((1, 3, 3, 16, 64), wrong),
            in_channels=64,
            kernel_width=3,
            weights=weights,
        )


@pytest.mark.parametrize(
    ("change", "weight", "message"),
    [
        ({"in_channels": 62}, (1, 3, 3, 16, 2), "in_channels is 62; pass a multiple of 4"),
        ({}, (1, 3, 2, 16, 2), "dimension 2 of weight is 2, but must be 3 (units of a kernel row)"),
        ({}, (1, 3, 3, 8, 2), "dimension 3 of weight is 8, but must be 16"),
        ({}, (1, 3, 3, 16, 1), "dimension 4 of weight is 1, but must be 2"),
        ({"in_channels": 128}, (1, 3, 6, 16, 2), "dimension 3 of data is 2, but must be 4"),
    ],
)
def test_errors(infer, change, weight, message):
    attrs = {"in_channels": 64, "kernel_width": 3, **change}
    with pytest.raises(OpError) as caught:
        data = ((1, 9, 9, 2), "uint32")
        infer(ops.bitserial_conv2d_signs, data, (weight, "uint32"), **attrs)
    assert message in str(caught.value)
