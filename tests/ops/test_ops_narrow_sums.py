"""bitserial_conv2d_blocked with weights in bytes and pairs: the integers of the words."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.bitserial_cases import KERNEL_CASES, blocked_arguments, make, problem, torch_conv
from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing
from tvm_insta.ops._narrow_sums import byte_steps, pieces_fit

CASES = {
    **KERNEL_CASES,
    "one byte": make((4, 5), (3, 3), padding=(1, 1, 1, 1), in_channels=5),
    "a word, 1x1": make((4, 5), (1, 1), in_channels=32),
    "four words": make((4, 5), (3, 3), padding=(1, 1, 1, 1), in_channels=128),
    "16 bytes, 1x1": make((3, 3), (1, 1), in_channels=512),
    "9 columns": make((9, 10), (2, 9), in_channels=40),
    # Equal bits nowhere and everywhere are the largest and the smallest sums of a byte.
    "31 full counts": make((31, 3), (31, 1), in_channels=8),
}


def narrow(case, data, weight, dtype):
    """The arguments of the operator with the weight in pieces of `dtype`."""
    (padded, _, *tables), attrs = blocked_arguments(case, data, weight)
    channels = case["in_channels"] // case["groups"]
    blocked = packing.block_pieces(weight, dtype, case["lanes"], channels)
    return (padded, blocked, *tables), attrs


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_same_integers(rng, run_op, case, dtype):
    if dtype == "uint16" and case["bits"] > 1:
        pytest.skip("pairs are for one bit")
    codes, signs, data, weight = problem(rng, case)
    args, attrs = narrow(case, data, weight, dtype)
    result = run_op(ops.bitserial_conv2d_blocked, *args, **attrs)
    np.testing.assert_array_equal(result, torch_conv(codes, signs, case))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_largest_sums(run_op, dtype):
    """Every bit differs: a byte of partial sums reaches 31 * 8 and must not wrap."""
    case = CASES["31 full counts"]
    signs = -np.ones((case["out"], 31, 1, 8), np.int64)
    codes = np.ones((1, 31, 3, 8), np.int64)
    args, attrs = narrow(case, packing.pack_codes(codes, 1), packing.pack_weight(signs), dtype)
    result = run_op(ops.bitserial_conv2d_blocked, *args, **attrs)
    np.testing.assert_array_equal(result, torch_conv(codes, signs, case))


def test_no_byte_sums_more_than_31_counts():
    for kernel_h in (1, 2, 3, 5, 7, 11, 31, 32):
        for kernel_w in (1, 2, 3, 5, 7, 8, 11, 31, 32):
            for count in (1, 2, 3, 4, 8, 12, 16, 64, 256):
                split = byte_steps(kernel_h, kernel_w, count)
                assert split.bytes * split.columns * split.rows <= 31, (kernel_h, kernel_w, count)
                assert split.columns in (1, kernel_w) and split.rows in (1, kernel_h)
                assert count % split.bytes == 0 or count < 4


def test_pieces_are_the_bits_of_the_words():
    weight = np.array([0x04030201, 0x08070605], np.uint32).reshape(1, 1, 1, 2)
    octets = packing.block_pieces(weight, "uint8", 1, 64)
    assert octets.shape == (1, 1, 8, 1, 1) and octets.ravel().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    pairs = packing.block_pieces(weight, "uint16", 1, 64)
    assert pairs.ravel().tolist() == [0x0201, 0x0403, 0x0605, 0x0807]
    few = packing.block_pieces(weight[..., :1] & np.uint32(0x1FF), "uint8", 1, 9)
    assert few.ravel().tolist() == [1, 0]
    assert [pieces_fit("uint8", n) for n in (1, 3, 4, 5, 8)] == [True, True, True, False, True]


TABLES = [((3, 3, 8), "int32"), ((5,), "int32"), ((6,), "int32")]


@pytest.mark.parametrize(
    ("weight", "bits", "message"),
    [
        (((2, 3, 5, 3, 4), "uint8"), 1, "5 pieces of dtype uint8 a tap"),
        (((2, 3, 4, 3, 4), "uint16"), 2, "uint16 takes 1 bit"),
        (((2, 3, 4, 3, 4), "uint8"), 1, "dimension 3 of data is 2, but must be 1"),
        (((2, 3, 8, 3, 4), "int8"), 1, "pass a tensor of dtype uint32"),
    ],
)
def test_errors(infer, weight, bits, message):
    data = ((2, 7, 8, 2 * bits), "uint32")
    with pytest.raises(OpError, match=message):
        infer(ops.bitserial_conv2d_blocked, data, weight, *TABLES, bits=bits)
