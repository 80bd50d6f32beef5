"""Packed layouts against a bit-by-bit definition, and the border tables' properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_insta.errors import OpError
from tvm_insta.ops import packing


def test_popcount(rng):
    words = np.concatenate(
        [
            np.array([0, 1, 0x80000000, 0xFFFFFFFF, 0x55555555, 0xAAAAAAAA], np.uint32),
            rng.integers(0, 2**32, 1000, dtype=np.uint32),
        ]
    )
    expected = [int(word).bit_count() for word in words]
    np.testing.assert_array_equal(packing.popcount(words), expected)
    assert packing.popcount(words.reshape(2, -1)).shape == (2, words.size // 2)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    groups=st.integers(1, 4),
    per_group=st.integers(1, 100),
    bits=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_codes_bit_by_bit_and_back(groups, per_group, bits, seed):
    rng = np.random.default_rng(seed)
    channels = groups * per_group
    codes = rng.integers(0, 2**bits, (3, channels))
    words = packing.pack_codes(codes, bits, groups)
    per_word = (per_group + 31) // 32
    expected = np.zeros((3, bits * groups * per_word), np.uint64)
    for row, channel, plane in np.ndindex(3, channels, bits):
        group, inner = divmod(channel, per_group)
        word = (plane * groups + group) * per_word + inner // 32
        expected[row, word] += ((codes[row, channel] >> plane) & 1) << (inner % 32)
    assert words.dtype == np.uint32
    # Equality of all words also says that the bits beyond the last channel are 0.
    np.testing.assert_array_equal(words, expected)
    np.testing.assert_array_equal(packing.unpack_codes(words, channels, bits, groups), codes)


def test_weight_round_trip(rng):
    for channels in (1, 31, 32, 33, 100):
        signs = rng.choice([-1.0, 1.0], (5, 3, 2, channels))
        words = packing.pack_weight(signs)
        assert words.shape == (5, 3, 2, (channels + 31) // 32)
        np.testing.assert_array_equal(packing.unpack_weight(words, channels), signs)


def test_weight_bit_meaning():
    assert packing.pack_weight([1, -1, -1, 1]).tolist() == [0b1001]


def test_blocking(rng):
    weight = rng.integers(0, 2**32, (24, 3, 2, 5), dtype=np.uint32)
    blocked = packing.block_weight(weight, 8)
    assert blocked.shape == (3, 3, 2, 5, 8)
    assert blocked.flags.c_contiguous
    for o in range(24):
        np.testing.assert_array_equal(blocked[o // 8, ..., o % 8], weight[o])
    np.testing.assert_array_equal(packing.unblock_weight(blocked), weight)


def tables(weight, spatial, **changes):
    attrs = dict(
        strides=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        in_channels_per_group=40,
        bits=1,
        encoding="bipolar",
    )
    return packing.border_tables(weight, spatial, **(attrs | changes))


@pytest.fixture
def weight(rng):
    return packing.pack_weight(rng.choice([-1, 1], (6, 3, 3, 40)))


def test_classes_of_a_3x3_kernel(weight):
    base, rows, columns = tables(weight, (5, 4))
    assert base.shape == (3, 3, 6)
    assert rows.tolist() == [0, 1, 1, 1, 2]
    assert columns.tolist() == [0, 1, 1, 2]
    assert {base.dtype, rows.dtype, columns.dtype} == {np.dtype(np.int32)}


def test_interior_class_has_no_correction(weight):
    base, rows, columns = tables(weight, (5, 5))
    np.testing.assert_array_equal(base[rows[2], columns[2]], np.full(6, 40 * 9))


def test_one_pixel_image_has_one_class(weight):
    base, rows, columns = tables(weight, (1, 1))
    assert base.shape == (1, 1, 6)
    assert rows.tolist() == columns.tolist() == [0]


def test_stride_2_meets_only_some_classes(weight):
    _, rows, columns = tables(weight, (6, 7), strides=(2, 2))
    assert rows.tolist() == [0, 1, 1]  # the last row's taps end on the last pixel
    assert columns.tolist() == [0, 1, 1, 2]


def test_unsigned_needs_one_class(weight):
    base, rows, columns = tables(weight, (5, 5), bits=2, encoding="unsigned")
    assert base.shape == (1, 1, 6)
    assert not rows.any()
    assert not columns.any()
    ones = np.sum(packing.unpack_weight(weight, 40) == 1, axis=(1, 2, 3))
    np.testing.assert_array_equal(base[0, 0], 3 * ones)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: packing.pack_bits(np.ones(10), 3), "10 channels do not split into 3 groups"),
        (lambda: packing.pack_codes([0, 4], 2), "codes span 0..4; pass codes in 0..3"),
        (lambda: packing.pack_codes([-1, 0], 2), "codes span -1..0"),
        (lambda: packing.pack_weight([1.0, 0.0]), "neither +1 nor -1"),
        (lambda: packing.pack_weight([1.0, np.nan]), "neither +1 nor -1"),
        (lambda: packing.unpack_bits(np.zeros(2, np.uint32), 70), "got 2 words for 70 channels"),
        (lambda: packing.unpack_codes(np.zeros(3, np.uint32), 8, 2), "3 words do not split"),
        (lambda: packing.block_weight(np.zeros((6, 1, 1, 1)), 4), "6 output channels do not split"),
    ],
)
def test_errors(action, message):
    with pytest.raises(OpError) as caught:
        action()
    assert message in str(caught.value)


def test_border_table_errors(weight):
    with pytest.raises(OpError, match="the kernel reaches over 5 pixels, but the padded image"):
        tables(weight, (2, 2), dilation=(2, 2))
    dirty = weight | np.uint32(1 << 31)
    with pytest.raises(OpError, match="bits beyond its 40 channels"):
        tables(dirty, (5, 5))
