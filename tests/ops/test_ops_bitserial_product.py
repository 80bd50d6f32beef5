"""bitserial_product against the plain matrix product of what the codes mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference

SLOW_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
MEANING = {
    "bipolar": lambda codes, bits: 2 * codes - (2**bits - 1),
    "unsigned": lambda codes, bits: codes,
    "ternary": lambda codes, bits: 2 * codes - 2,
}
KINDS = [(e, b) for e in ("bipolar", "unsigned") for b in (1, 2, 3, 4)] + [("ternary", 2)]


def random_factor(rng, shape, encoding, bits):
    """Packed codes, and the integers that they mean; -1, 0 and 1 twice for ternary codes."""
    codes = rng.integers(0, 3 if encoding == "ternary" else 2**bits, shape)
    return packing.pack_codes(codes, bits), MEANING[encoding](codes.astype(np.int64), bits)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=SLOW_FIXTURE)
@given(data=st.data())
def test_kernel_and_oracle(run_op, data):
    draw = data.draw
    n, g, m, o = (draw(st.integers(1, 3)) for _ in range(4))
    k = draw(st.sampled_from([1, 8, 31, 32, 33, 64, 100]))
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(2)]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    left, a = random_factor(rng, (n, g, m, k), *kinds[0])
    right, b = random_factor(rng, (n, g, o, k), *kinds[1])
    attrs = dict(
        in_channels=k,
        left_bits=kinds[0][1],
        right_bits=kinds[1][1],
        left_encoding=kinds[0][0],
        right_encoding=kinds[1][0],
    )
    expected = np.einsum("ngmk,ngok->ngmo", a, b).astype(np.int32)
    assert np.array_equal(reference.bitserial_product(left, right, **attrs), expected), seed
    assert np.array_equal(run_op(ops.bitserial_product, left, right, **attrs), expected), seed


def test_product(rng, run_op):
    left = rng.integers(-3, 4, (2, 3, 4, 5)).astype(np.float32)
    right = rng.integers(-3, 4, (2, 3, 6, 5)).astype(np.float32)
    expected = np.einsum("ngmk,ngok->ngmo", left, right)
    assert np.array_equal(run_op(ops.product, left, right), expected)
    assert np.array_equal(reference.product(left, right), expected)


@pytest.mark.parametrize(
    ("left", "right", "attrs", "message"),
    [
        ((1, 2, 3, 2), (1, 2, 3, 1), {}, "dimension 3 of right is 1, but must be 2"),
        ((1, 2, 3, 2), (1, 1, 3, 2), {}, "dimension 1 of right is 1, but must be 2 (as of left)"),
        ((2, 3, 2), (1, 2, 3, 2), {}, "left) has rank 3"),
        ((1, 2, 3, 2), (1, 2, 3, 2), {"left_bits": 5}, "left_bits is 5; pass an integer in 1..4"),
        (
            (1, 2, 3, 2),
            (1, 2, 3, 2),
            {"left_encoding": "ternary"},
            "left_bits is 1; pass 2 for ternary codes",
        ),
        (
            (1, 2, 3, 2),
            (1, 2, 3, 2),
            {"right_encoding": "plain"},
            "right_encoding is 'plain'; pass one of 'bipolar', 'unsigned', 'ternary'",
        ),
    ],
)
def test_errors(infer, left, right, attrs, message):
    with pytest.raises(OpError) as caught:
        infer(ops.bitserial_product, (left, "uint32"), (right, "uint32"), in_channels=40, **attrs)
    assert message in str(caught.value)
