"""bitserial_dense against the plain matrix product, and as the 1x1 case of the blocked conv."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.bitserial_cases import blocked_arguments, make
from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference


@pytest.mark.parametrize("encoding", ["bipolar", "unsigned"])
@pytest.mark.parametrize(("channels", "bits"), [(1, 1), (32, 1), (100, 1), (45, 3), (64, 4)])
def test_dense(rng, run_op, channels, bits, encoding):
    codes = rng.integers(0, 2**bits, (3, channels))
    signs = rng.choice([-1, 1], (7, channels))
    values = codes if encoding == "unsigned" else 2 * codes - (2**bits - 1)
    data, weight = packing.pack_codes(codes, bits), packing.pack_weight(signs)
    attrs = dict(in_channels=channels, bits=bits, encoding=encoding)
    expected = (values @ signs.T).astype(np.int32)
    np.testing.assert_array_equal(reference.bitserial_dense(data, weight, **attrs), expected)
    np.testing.assert_array_equal(run_op(ops.bitserial_dense, data, weight, **attrs), expected)


def test_dense_is_a_1x1_blocked_convolution(rng, run_op):
    codes, signs = rng.integers(0, 2, (2, 70)), rng.choice([-1, 1], (8, 70))
    case = make((1, 1), (1, 1), in_channels=70, lanes=8)
    weight = packing.pack_weight(signs[:, None, None])
    args, attrs = blocked_arguments(case, packing.pack_codes(codes, 1)[:, None, None], weight)
    result = run_op(ops.bitserial_conv2d_blocked, *args, **attrs)
    np.testing.assert_array_equal(result[:, 0, 0], (2 * codes - 1) @ signs.T)


@pytest.mark.parametrize(
    ("data", "weight", "message"),
    [
        ((2, 3), (8, 2), "dimension 1 of data is 3, but must be 2"),
        ((2, 2), (8, 3), "dimension 1 of weight is 3, but must be 2 (words of in_channels=40)"),
        ((2, 1, 2), (8, 2), "data) has rank 3"),
    ],
)
def test_dense_errors(infer, data, weight, message):
    with pytest.raises(OpError) as caught:
        infer(ops.bitserial_dense, (data, "uint32"), (weight, "uint32"), in_channels=40)
    assert message in str(caught.value)
