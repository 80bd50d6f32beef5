"""round_half: the oracle against PyTorch's casts, the kernel against the oracle, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import reference

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def around(to: str) -> np.ndarray:
    """Every number of the type (bfloat16's of some exponents), the ties between, and neighbours."""
    codes = torch.arange(0, 1 << 16, 1 if to == "float16" else 3, dtype=torch.int32)
    numbers = codes.to(torch.int16).view(TYPES[to]).float().numpy()
    with np.errstate(invalid="ignore"):  # some numbers are NaN
        beyond = np.nextafter(numbers, np.float32(np.inf))
    cut = 16 if to == "bfloat16" else 13
    ties = (numbers.view(np.uint32) | np.uint32(1 << (cut - 1))).view(np.float32)
    small = np.float32(2.0**-25) * np.arange(-4100, 4100, dtype=np.float32)  # float16's subnormals
    near = [np.nextafter(small, np.float32(side)) for side in (-np.inf, np.inf)]
    edges = np.float32(
        [65519.996, 65520.0, -65520.0, 3.3961775e38, 3.4e38, np.inf, -np.inf, np.nan]
    )
    return np.concatenate([numbers, beyond, ties, small, *near, edges])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit by bit, but for the payload of NaN."""
    nan = np.isnan(a)
    return bool((nan == np.isnan(b)).all()) and a[~nan].tobytes() == b[~nan].tobytes()


@pytest.mark.parametrize("to", TYPES)
def test_every_number_and_every_tie(to, run_op):
    data = around(to)
    expected = torch.from_numpy(data).to(TYPES[to]).float().numpy()
    assert same(reference.round_half(data, to=to), expected)
    assert same(run_op(ops.round_half, data, to=to), expected)


@pytest.mark.parametrize("shape", [(), (3, 5), (1, 2, 3, 4)])
def test_any_shape(shape, rng, run_op):
    data = rng.standard_normal(shape).astype(np.float32)
    assert same(
        run_op(ops.round_half, data, to="bfloat16"), reference.round_half(data, to="bfloat16")
    )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(TYPES)), st.lists(st.floats(width=32), min_size=1, max_size=64))
def test_oracle_is_pytorchs_cast(to, numbers):
    data = np.array(numbers, np.float32)
    expected = torch.from_numpy(data).to(TYPES[to]).float().numpy()
    assert same(reference.round_half(data, to=to), expected)


def test_errors(infer):
    with pytest.raises(OpError, match="to is 'float8'; pass one of"):
        infer(ops.round_half, ((4,), "float32"), to="float8")
    with pytest.raises(OpError, match="has dtype float64; pass a tensor of dtype float32"):
        infer(ops.round_half, ((4,), "float64"), to="float16")
