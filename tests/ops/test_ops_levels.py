"""Levels and float products against their oracles; the convolution's against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import reference


@pytest.mark.parametrize("compare", ["ge", "gt", "le", "lt"])
def test_levels(rng, run_op, compare):
    x = rng.integers(-4, 5, (2, 3, 4, 5)).astype(np.float32) / 2  # thresholds are met
    x[0, 0, 0] = np.nan
    thresholds = [np.float32([-1, 0, 0.5, 1, 2]), np.zeros((1, 1, 1, 1), np.float32)]
    attrs = dict(base=-1.5, step=0.5, compare=compare)
    found = run_op(ops.levels, x, *thresholds, **attrs)
    assert np.array_equal(found, reference.levels(x, *thresholds, **attrs))
    assert (found[0, 0, 0] == -1.5).all()  # no comparison with NaN holds
    found = run_op(ops.levels, x, *thresholds, **attrs, nan=1)
    assert np.array_equal(found, reference.levels(x, *thresholds, **attrs, nan=1))
    assert (found[0, 0, 0] == -1.0).all()  # or one does


def test_dense(rng, run_op):
    x, weight = rng.standard_normal((3, 40), np.float32), rng.standard_normal((40, 7), np.float32)
    found = run_op(ops.dense, x, weight)
    bound = 42 * 2.0**-24 * reference.dense(np.abs(x), np.abs(weight))  # 40 sums, 40 products
    assert (np.abs(found - reference.dense(x, weight)) <= bound).all()


def test_the_oracle_of_the_convolution_is_pytorch(rng):
    x = rng.integers(-3, 4, (2, 4, 6, 5)).astype(np.float32)
    weight = rng.integers(-3, 4, (6, 2, 3, 2)).astype(np.float32)
    found = reference.convolution(
        x, weight, strides=[2, 1], padding=[1, 2, 1, 2], dilation=[1, 2], groups=2
    )
    tensors = torch.from_numpy(x), torch.from_numpy(weight)
    expected = torch.conv2d(*tensors, None, (2, 1), (1, 2), (1, 2), 2)
    assert np.array_equal(found, expected.numpy())


def test_errors(infer):
    with pytest.raises(OpError, match="there is no threshold"):
        infer(ops.levels, ((2, 3), "float32"), base=0.0, step=1.0)
    with pytest.raises(OpError, match="step is"):
        infer(ops.levels, ((2, 3), "float32"), ((), "float32"), base=0.0, step=-1.0)
