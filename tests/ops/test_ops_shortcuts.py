"""repeat_channels and halving_pool: oracles against PyTorch, kernels against the oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import reference


@pytest.mark.parametrize(("shape", "times"), [((1, 3, 4, 16), 2), ((2, 1, 5, 7), 3)])
def test_repeat_channels(rng, run_op, shape, times):
    data = rng.standard_normal(shape, np.float32)
    expected = torch.from_numpy(data).repeat(1, 1, 1, times).numpy()
    np.testing.assert_array_equal(reference.repeat_channels(data, times=times), expected)
    np.testing.assert_array_equal(run_op(ops.repeat_channels, data, times=times), expected)


@pytest.mark.parametrize("shape", [(1, 4, 6, 16), (3, 5, 7, 3), (1, 2, 2, 1)])
def test_halving_pool(rng, run_op, shape):
    data = rng.standard_normal(shape, np.float32)
    expected = reference.halving_pool(data)
    assert run_op(ops.halving_pool, data).tobytes() == expected.tobytes()
    pooled = torch.nn.functional.avg_pool2d(torch.from_numpy(data.transpose(0, 3, 1, 2)), 2)
    # Three additions of numbers below 6, each rounded to within 2**-24 of a sum below 24, over 4.
    np.testing.assert_allclose(expected, pooled.permute(0, 2, 3, 1), rtol=0, atol=18 * 2.0**-24)


def test_what_they_refuse(infer):
    with pytest.raises(OpError, match="repeat_channels: times is 0; pass an integer of at least 1"):
        infer(ops.repeat_channels, ((1, 4, 4, 8), "float32"), times=0)
    with pytest.raises(OpError, match=r"has dtype .*uint32.*; pass a tensor of dtype float32"):
        infer(ops.repeat_channels, ((1, 4, 4, 8), "uint32"), times=2)
    with pytest.raises(OpError, match="data has 1 rows of 4 pixels; pass at least 2 of each"):
        infer(ops.halving_pool, ((1, 1, 4, 8), "float32"))
