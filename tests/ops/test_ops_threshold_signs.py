"""threshold_signs against the bits of threshold_pack, and the kernel against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, tirx

from tests.ops.test_ops_threshold_pack import (
    COMPARE,
    SLOW_FIXTURE,
    T,
    X,
    hard_values,
    random_thresholds,
)
from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW_FIXTURE)
@given(data=st.data())
def test_property(run_op, data):
    """A byte for each bit that would be packed, 0 in the padding and behind the last channel."""
    draw = data.draw
    image = [draw(st.integers(1, 4)) for _ in range(2)]
    shape = [draw(st.integers(1, 2)), *image, draw(st.integers(1, 70))]
    pad = [draw(st.integers(0, 2)) for _ in range(4)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = hard_values(rng, shape)
    kind = draw(st.sampled_from(["channel", "instance", "scalar", "full"]))
    thresholds = random_thresholds(rng, x, 1, kind)
    attrs = {"compare": draw(st.sampled_from(sorted(COMPARE))), "nan": draw(st.integers(0, 1))}
    found = run_op(ops.threshold_signs, x, thresholds, pad=pad, **attrs)
    np.testing.assert_array_equal(found, reference.threshold_signs(x, thresholds, pad=pad, **attrs))
    (top, left, _, _), (_, height, width, channels) = pad, shape
    inner = found[:, top : top + height, left : left + width, :channels]
    words = reference.threshold_pack(x, thresholds, **attrs)
    np.testing.assert_array_equal(inner, packing.unpack_codes(words, channels, 1, 1) * 2.0 - 1)
    assert np.count_nonzero(found) == x.size


def test_symbolic_batch(rng, build_op, compile_op):
    n = tirx.Var("n", "int64")
    types = [
        relax.TensorType([n, 3, 3, 40], "float32"),
        relax.TensorType([1, n, 1, 1, 40], "float32"),
    ]
    function = compile_op(build_op(ops.threshold_signs, types, pad=[1, 1, 2, 1]))
    for batch in (1, 2, 5):
        x = hard_values(rng, (batch, 3, 3, 40))
        thresholds = hard_values(rng, (1, batch, 1, 1, 40))
        expected = reference.threshold_signs(x, thresholds, pad=(1, 1, 2, 1))
        np.testing.assert_array_equal(function(x, thresholds), expected)


@pytest.mark.parametrize(
    ("shapes", "attrs", "message"),
    [
        ((((2, 40), "float32"), T), {}, "pass a tensor of dtype float32 and rank 4"),
        ((X, ((3, 1, 1, 1, 40), "float32")), {}, "dimension 0 of thresholds is 3, but must be 1"),
        ((X, T), {"nan": 2}, "nan is 2; pass an integer in 0..1"),
        ((X, T), {"compare": "eq"}, "compare is 'eq'; pass one of 'ge', 'gt', 'le', 'lt'"),
        ((X, T), {"pad": [0, 0, -1, 0]}, "pass 4 integers of at least 0"),
        (
            (X, ((1, 1, 1, 2, 40), "float32")),
            {},
            "dimension 3 of thresholds is 2, but must be 1 or 4",
        ),
    ],
)
def test_errors(infer, shapes, attrs, message):
    with pytest.raises(OpError) as caught:
        infer(ops.threshold_signs, *shapes, **attrs)
    assert message in str(caught.value)
    assert str(caught.value).startswith("insta.threshold_signs: ")
