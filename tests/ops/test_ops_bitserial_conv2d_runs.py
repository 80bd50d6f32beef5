"""bitserial_conv2d_runs with its border tables is bitserial_conv2d, in every border class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bitserial_cases import (
    KERNEL_CASES,
    SLOW_FIXTURE,
    conv_cases,
    fits,
    has_runs,
    problem,
    runs_arguments,
    torch_conv,
)
from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference

CASES = {name: case for name, case in KERNEL_CASES.items() if has_runs(case)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_kernel(rng, run_op, case):
    codes, signs, data, weight = problem(rng, case)
    args, attrs = runs_arguments(case, data, weight)
    result = run_op(ops.bitserial_conv2d_runs, *args, **attrs)
    np.testing.assert_array_equal(result, torch_conv(codes, signs, case))


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=SLOW_FIXTURE)
@given(case=conv_cases(), seed=st.integers(0, 2**32 - 1))
def test_oracle(case, seed):
    case |= {"dilation": (1, 1), "groups": 1}
    if not fits(case):
        return
    codes, signs, data, weight = problem(np.random.default_rng(seed), case)
    args, attrs = runs_arguments(case, data, weight)
    result = reference.bitserial_conv2d_runs(*args, **attrs)
    np.testing.assert_array_equal(result, torch_conv(codes, signs, case))


@given(st.integers(1, 20), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9))
def test_weights_go_there_and_back(out, rows, columns, words):
    weight = np.random.default_rng(out).integers(0, 2**32, (out, rows, columns, words), np.uint32)
    runs = packing.run_weight(weight)
    assert runs.shape == (-(-out // 8), rows, -(-columns * words // 4), 8, 4)
    np.testing.assert_array_equal(packing.unrun_weight(runs, out, columns, words), weight)
    assert np.bitwise_count(runs).sum() == np.bitwise_count(weight).sum()  # all else is 0


RUNS = [
    ((2, 7, 8, 2), "uint32"),
    ((2, 3, 2, 8, 4), "uint32"),
    ((3, 3, 11), "int32"),
    ((5,), "int32"),
    ((6,), "int32"),
]


@pytest.mark.parametrize(
    ("index", "replacement", "attrs", "message"),
    [
        (0, ((2, 7, 8, 3), "uint32"), {}, "dimension 2 of weight is 2, but must be 3"),
        (0, RUNS[0], {"bits": 3}, "2 words of data do not split"),
        (1, ((1, 3, 2, 8, 4), "uint32"), {}, "dimension 0 of weight is 1, but must be 2"),
        (1, ((2, 3, 2, 4, 4), "uint32"), {}, "dimension 3 of weight is 4, but must be 8"),
        (3, ((6,), "int32"), {}, "dimension 0 of row_class is 6, but must be 5 (output height)"),
        (4, ((5,), "int32"), {}, "dimension 0 of col_class is 5, but must be 6 (output width)"),
        (0, RUNS[0], {"alpha": 3}, "alpha is 3; pass an integer in 1..2"),
    ],
)
def test_errors(infer, index, replacement, attrs, message):
    shapes = list(RUNS)
    infer(ops.bitserial_conv2d_runs, *shapes, kernel_width=3)
    shapes[index] = replacement
    with pytest.raises(OpError) as caught:
        infer(ops.bitserial_conv2d_runs, *shapes, kernel_width=3, **attrs)
    assert message in str(caught.value)
