"""bitserial_conv2d: oracle against torch's convolution, kernel against torch's convolution."""

from __future__ import annotations

import itertools

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

# groups, input channels, output channels, lanes
GROUPINGS = [(1, 40, 8, 4), (2, 70, 4, 4), (1, 33, 3, 1), (5, 10, 10, 5), (4, 4, 8, 8)]


def test_oracles_against_torch(rng):
    """Generated grid, numpy only: canonical and blocked oracle are both the torch convolution."""
    images = [(1, 1), (1, 6), (5, 1), (4, 5), (9, 8)]
    strides = [(1, 1), (2, 2), (1, 2)]
    paddings = [(0, 0), (1, 1), (2, 1)]  # before, after, in units of half the kernel
    checked = 0
    for image, kernel, stride, (before, after) in itertools.product(
        images, range(1, 8), strides, paddings
    ):
        half = kernel // 2
        groups, in_channels, out, lanes = GROUPINGS[rng.integers(len(GROUPINGS))]
        case = make(
            image,
            (kernel, int(rng.integers(1, kernel + 1))),
            batch=int(rng.integers(1, 3)),
            strides=stride,
            padding=(before * half, after * half, after * half, before * half),
            dilation=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
            groups=groups,
            in_channels=in_channels,
            out=out,
            lanes=lanes,
            bits=int(rng.integers(1, 5)),
            encoding=("bipolar", "unsigned")[rng.integers(2)],
        )
        if not fits(case):
            continue
        codes, signs, data, weight = problem(rng, case)
        expected = torch_conv(codes, signs, case)
        canonical = reference.bitserial_conv2d(data, weight, **conv_attrs(case))
        np.testing.assert_array_equal(canonical, expected, err_msg=str(case))
        args, attrs = blocked_arguments(case, data, weight)
        blocked = reference.bitserial_conv2d_blocked(*args, **attrs)
        np.testing.assert_array_equal(blocked, expected, err_msg=str(case))
        checked += 1
    assert checked > 150  # of 315: a kernel that exceeds its padded image is no case


@pytest.mark.parametrize("case", KERNEL_CASES.values(), ids=KERNEL_CASES.keys())
def test_kernel(rng, run_op, case):
    codes, signs, data, weight = problem(rng, case)
    result = run_op(ops.bitserial_conv2d, data, weight, **conv_attrs(case))
    np.testing.assert_array_equal(result, torch_conv(codes, signs, case))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=SLOW_FIXTURE)
@given(case=conv_cases().filter(fits), seed=st.integers(0, 2**32 - 1))
def test_property(run_op, case, seed):
    codes, signs, data, weight = problem(np.random.default_rng(seed), case)
    result = run_op(ops.bitserial_conv2d, data, weight, **conv_attrs(case))
    np.testing.assert_array_equal(result, torch_conv(codes, signs, case))


def test_symbolic_batch(rng, build_op, compile_op):
    case = make((5, 4), (3, 3), padding=(1, 1, 1, 1), groups=2)
    _, _, data, weight = problem(rng, case)
    batch = tirx.Var("n", "int64")
    types = [
        relax.TensorType([batch, *data.shape[1:]], "uint32"),
        relax.TensorType(weight.shape, "uint32"),
    ]
    function = compile_op(build_op(ops.bitserial_conv2d, types, **conv_attrs(case)))
    for count in (1, 3, 4):
        data = packing.pack_codes(rng.integers(0, 2, (count, 5, 4, 40)), 1, 2)
        expected = reference.bitserial_conv2d(data, weight, **conv_attrs(case))
        np.testing.assert_array_equal(function(data, weight), expected)


D, W = ((2, 5, 6, 2), "uint32"), ((8, 3, 3, 2), "uint32")


@pytest.mark.parametrize(
    ("shapes", "attrs", "message"),
    [
        (
            (((2, 5, 6, 2), "int32"), W),
            {},
            "data) has dtype int32; pass a tensor of dtype uint32",
        ),
        ((D, ((8, 3, 3, 3), "uint32")), {}, "dimension 3 of weight is 3, but must be 2"),
        ((((2, 5, 6, 3), "uint32"), W), {}, "dimension 3 of data is 3, but must be 2"),
        ((D, W), {"bits": 2}, "dimension 3 of data is 2, but must be 4"),
        ((D, W), {"groups": 3}, "40 input channels do not split into groups=3"),
        ((D, W), {"encoding": "ternary"}, "pass one of 'bipolar', 'unsigned'"),
        ((D, W), {"strides": [0, 1]}, "strides is [0, 1]; pass 2 integers of at least 1"),
        ((D, W), {"padding": [1]}, "padding is [1]; pass 4 integers of at least 0"),
        ((D, W), {"dilation": [3, 1]}, "reaches over 7 pixels of height, but the padded image has"),
        ((D, W), {"in_channels": 0}, "in_channels is 0; pass an integer of at least 1"),
    ],
)
def test_conv_errors(infer, shapes, attrs, message):
    with pytest.raises(OpError) as caught:
        infer(ops.bitserial_conv2d, *shapes, **({"in_channels": 40} | attrs))
    assert message in str(caught.value)
    assert str(caught.value).startswith("insta.bitserial_conv2d: ")


def test_conv_overflow_is_refused(infer):
    words = 2**20
    with pytest.raises(OpError, match="may overflow int32; split the convolution"):
        infer(
            ops.bitserial_conv2d,
            ((1, 3, 3, 4 * words), "uint32"),
            ((8, 3, 3, words), "uint32"),
            in_channels=32 * words,
            bits=4,
        )
