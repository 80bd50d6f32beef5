"""bitserial_conv2d_blocked with its border tables is bitserial_conv2d, in every border class.

The blocked oracle is held against torch over the whole grid in test_ops_bitserial_conv2d.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, tirx

from tests.support.bitserial_cases import (
    KERNEL_CASES,
    SLOW_FIXTURE,
    blocked_arguments,
    conv_attrs,
    conv_cases,
    fits,
    make,
    problem,
    torch_conv,
)
from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference
from tvm_insta.ops._sums_of_bytes import BYTES, NIBBLES, inner_axes
from tvm_insta.ops.bitserial_conv2d_blocked import COUNTS


@pytest.mark.parametrize("case", KERNEL_CASES.values(), ids=KERNEL_CASES.keys())
@pytest.mark.parametrize("counts", COUNTS)
def test_kernel(rng, run_op, case, counts):
    codes, signs, data, weight = problem(rng, case)
    args, attrs = blocked_arguments(case, data, weight, counts)
    result = run_op(ops.bitserial_conv2d_blocked, *args, **attrs, counts=counts)
    np.testing.assert_array_equal(result, torch_conv(codes, signs, case))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW_FIXTURE)
@given(
    case=conv_cases().filter(fits), seed=st.integers(0, 2**32 - 1), counts=st.sampled_from(COUNTS)
)
def test_property(run_op, case, seed, counts):
    codes, signs, data, weight = problem(np.random.default_rng(seed), case)
    args, attrs = blocked_arguments(case, data, weight, counts)
    if args[1].shape[-1] == 1:
        counts = "pieces"  # scalars are not counted so, see schedules.blocking
        args, attrs = blocked_arguments(case, data, weight, counts)
    result = run_op(ops.bitserial_conv2d_blocked, *args, **attrs, counts=counts)
    np.testing.assert_array_equal(result, torch_conv(codes, signs, case))


def test_symbolic_batch(rng, build_op, compile_op):
    case = make((5, 4), (3, 3), padding=(1, 1, 1, 1), groups=2)
    _, _, data, weight = problem(rng, case)
    args, attrs = blocked_arguments(case, data, weight)
    batch = tirx.Var("n", "int64")
    types = [relax.TensorType([batch, *args[0].shape[1:]], "uint32")]
    types += [relax.TensorType(a.shape, str(a.dtype)) for a in args[1:]]
    function = compile_op(build_op(ops.bitserial_conv2d_blocked, types, **attrs))
    for count in (1, 3, 4):
        data = packing.pack_codes(rng.integers(0, 2, (count, 5, 4, 40)), 1, 2)
        padded = np.pad(data, ((0, 0), (1, 1), (1, 1), (0, 0)))
        expected = reference.bitserial_conv2d(data, weight, **conv_attrs(case))
        np.testing.assert_array_equal(function(padded, *args[1:]), expected)


@pytest.mark.parametrize(("words", "kernel"), [(1, 3), (2, 5), (16, 3), (7, 3), (40, 1), (64, 7)])
def test_no_byte_overflows(words, kernel, run_op):
    """All bits differ: every count is the largest, 8 a byte, in each byte of each word."""
    data = np.full((1, kernel, kernel, words), 2**32 - 1, np.uint32)
    weight = np.zeros((1, kernel, kernel, words, 4), np.uint32)
    args = [data, weight, np.zeros((1, 1, 4), np.int32), *[np.zeros(1, np.int32)] * 2]
    for form in (BYTES, NIBBLES):
        pieces = words * 32 // form.bits
        rows, columns, part = inner_axes(kernel, kernel, pieces, form.most)
        assert rows * columns * part <= form.most
        assert kernel % rows == kernel % columns == pieces % part == 0
        if form is NIBBLES:
            args[1] = packing.block_nibbles(
                np.zeros((4, kernel, kernel, words), np.uint32), 4, 32 * words
            )
        counts = "bytes" if form is BYTES else "nibbles"
        result = run_op(ops.bitserial_conv2d_blocked, *args, alpha=1, counts=counts)
        np.testing.assert_array_equal(result, -32 * words * kernel * kernel)


BLOCKED = [
    ((2, 7, 8, 2), "uint32"),
    ((2, 3, 3, 2, 4), "uint32"),
    ((3, 3, 8), "int32"),
    ((5,), "int32"),
    ((6,), "int32"),
]


@pytest.mark.parametrize(
    ("index", "replacement", "attrs", "message"),
    [
        (
            1,
            ((8, 3, 3, 2), "uint32"),
            {},
            "has rank 4; pass a tensor of dtype uint32",
        ),
        (0, ((2, 7, 8, 3), "uint32"), {}, "dimension 3 of data is 3, but must be 2"),
        (2, ((3, 3, 7), "int32"), {}, "dimension 2 of base is 7, but must be 8"),
        (3, ((6,), "int32"), {}, "dimension 0 of row_class is 6, but must be 5 (output height)"),
        (4, ((5,), "int32"), {}, "dimension 0 of col_class is 5, but must be 6 (output width)"),
        (4, ((6,), "int64"), {}, "col_class) has dtype int64; pass a tensor of dtype int32"),
        (0, BLOCKED[0], {"alpha": 3}, "alpha is 3; pass an integer in 1..2"),
        (0, BLOCKED[0], {"groups": 3}, "8 output channels do not split into groups=3"),
    ],
)
def test_blocked_errors(infer, index, replacement, attrs, message):
    shapes = list(BLOCKED)
    infer(ops.bitserial_conv2d_blocked, *shapes)
    shapes[index] = replacement
    with pytest.raises(OpError) as caught:
        infer(ops.bitserial_conv2d_blocked, *shapes, **attrs)
    assert message in str(caught.value)
