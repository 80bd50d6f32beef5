"""bitserial_conv2d_signs without a schedule, the layout of its weight, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference
from tvm_insta.ops.bitserial_conv2d_signs import spare_rows

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


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_give_the_integers_of_bits(rng, run_op, shape):
    """The padded image of +-1 bytes; nothing depends on what lies behind it or its channels."""
    height, width, channels, out, kernel, strides, (top, left, bottom, right) = shape
    signs = rng.choice([-1, 1], (2, height, width, channels))
    weight = packing.pack_weight(rng.choice([-1, 1], (out, *kernel, channels)))
    geometry = {"strides": strides, "in_channels": channels}
    expected = reference.bitserial_conv2d(
        packing.pack_codes(signs > 0, 1), weight, padding=(top, left, bottom, right), **geometry
    )
    image = np.pad(signs, ((0, 0), (top, bottom), (left, right), (0, 0))).astype(np.int8)
    spare = 1 + spare_rows(image.shape[2], kernel[1], strides[1], channels)
    behind = ((0, 0), (0, spare), (0, 0), (0, -channels % 32))
    image = np.pad(image, behind, constant_values=-77)
    tiled = packing.tile_weight(weight, channels)
    attrs = {**geometry, "kernel_width": kernel[1], "image": "bytes", "spare": spare}
    result = run_op(ops.bitserial_conv2d_signs, image, tiled, **attrs)
    np.testing.assert_array_equal(result, expected)
    oracle = reference.bitserial_conv2d_signs(image, tiled, **attrs)
    np.testing.assert_array_equal(oracle, expected)


@pytest.mark.parametrize(
    ("width", "kernel", "stride", "channels", "rows"),
    [
        (58, 3, 1, 64, 0),  # 56 outputs fill tiles, and a kernel row is whole units
        (34, 3, 1, 32, 1),  # 32 fill tiles, but a kernel row of 96 bytes ends within a unit
        (34, 3, 2, 32, 0),  # the same, with a pixel to spare behind the last window
        (16, 3, 1, 256, 1),  # a tile of a row of 14 pixels ends two behind it
        (9, 3, 1, 512, 1),
        (3, 3, 1, 64, 5),  # one pixel, and the tile has 16
        (1, 1, 1, 64, 15),
        (16, 1, 1, 64, 0),
    ],
)
def test_rows_that_only_tiles_read(width, kernel, stride, channels, rows):
    assert spare_rows(width, kernel, stride, channels) == rows
    # By hand: the last byte of the 16 pixels from the first of the last row on.
    pixel, outputs = -(-channels // 32) * 32, (width - kernel) // stride + 1
    last = (max(outputs, 16) - 1) * stride * pixel + -(-kernel * pixel // 64) * 64
    assert rows * width * pixel >= last - width * pixel
    assert rows == 0 or (rows - 1) * width * pixel < last - width * pixel


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


@pytest.mark.parametrize(
    ("change", "data", "message"),
    [
        ({}, ((1, 9, 9, 64), "uint32"), "image='bytes' is for data of dtype int8; got uint32"),
        ({"image": "bits"}, ((1, 9, 9, 2), "int8"), "image='bits' is for data of dtype uint32"),
        ({}, ((1, 9, 9, 32), "int8"), "dimension 3 of data is 32, but must be 64 (bytes of a pixe"),
        ({"spare": 0}, ((1, 9, 9, 64), "int8"), "spare is 0; pass at least 1 rows for such tiles"),
        (
            {"image": "bits", "spare": 1},
            ((1, 9, 9, 2), "uint32"),
            "spare is 1, but data of bits has no rows that nobody needs; pass 0",
        ),
        (
            {"padding": [1, 1, 1, 1]},
            ((1, 9, 9, 64), "int8"),
            "padding is [1, 1, 1, 1], but bytes are padded already; pass [0, 0, 0, 0]",
        ),
        ({"spare": 7}, ((1, 9, 9, 64), "int8"), "over 3 pixels of height, but the padded image ha"),
        ({}, ((1, 9, 2, 64), "int8"), "over 3 pixels of width, but the padded image has 2"),
    ],
)
def test_errors_of_images(infer, change, data, message):
    attrs = {"in_channels": 64, "kernel_width": 3, "image": "bytes", "spare": 1, **change}
    with pytest.raises(OpError) as caught:
        infer(ops.bitserial_conv2d_signs, data, ((1, 3, 3, 16, 2), "uint32"), **attrs)
    assert message in str(caught.value)
