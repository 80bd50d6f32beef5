"""instance_threshold: the oracle against torch, the kernel against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tvm import relax, tirx

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import reference


def parameters(rng, batch, channels, hidden=None):
    shapes = [(batch, channels), (channels,), (channels,)]
    if hidden is not None:
        shapes += [(hidden, channels), (hidden,), (channels, hidden), (channels,)]
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def tolerance(args):
    """First-order bound of the float32 roundings, in the order of the definition.

    A sum of n products errs by at most n * 2**-24 of the sum of magnitudes; tanh has slope at most
    1, so its argument's error passes through undiminished at worst. TVM's own tanh and the last
    additions are allowed 16 units of the magnitude of their operands.
    """
    unit = 2.0**-24
    m, a, b, *excitation = (np.abs(array.astype(np.float64)) for array in args)
    bound = 3 * unit * (a * m + b)
    if excitation:
        w1, b1, w2, b2 = excitation
        hidden = m @ w1.T + b1
        argument = hidden @ w2.T + b2
        terms = m.shape[1] + w1.shape[0] + 4
        bound = bound + terms * unit * argument + 16 * unit * (1 + a * m + b)
    return bound


CASES = [(1, 64, None), (3, 5, None), (2, 64, 4), (1, 7, 1), (4, 33, 16)]


@pytest.mark.parametrize(("batch", "channels", "hidden"), CASES)
def test_oracle_and_kernel(rng, run_op, batch, channels, hidden):
    args = parameters(rng, batch, channels, hidden)
    expected = reference.instance_threshold(*args)
    m, a, b, *excitation = (torch.from_numpy(array).double() for array in args)
    definition = a * m + b
    if excitation:
        w1, b1, w2, b2 = excitation
        inner = torch.relu(torch.nn.functional.linear(m, w1, b1))
        definition = definition + torch.tanh(torch.nn.functional.linear(inner, w2, b2))
    # Both compute in float64; the oracle rounds once to float32.
    np.testing.assert_allclose(expected, definition, rtol=2**-23, atol=1e-12)
    assert np.all(np.abs(run_op(ops.instance_threshold, *args) - expected) <= tolerance(args))


def test_zero_parameters_give_the_constant_threshold(run_op):
    """a = 0 and w2 = b2 = 0 (how training starts) is exactly b, whatever the statistic."""
    m = np.array([[1e6, -3.0, 0.5]], np.float32)
    b = np.array([0.1, -0.2, 0.3], np.float32)
    zero, ones = np.zeros(3, np.float32), np.ones((2, 3), np.float32)
    args = (m, zero, b, ones, np.ones(2, np.float32), np.zeros((3, 2), np.float32), zero)
    np.testing.assert_array_equal(run_op(ops.instance_threshold, *args), b[None])


def test_symbolic_batch(rng, build_op, compile_op):
    args = parameters(rng, 1, 20, 4)
    types = [relax.TensorType([tirx.Var("n", "int64"), 20], "float32")]
    types += [relax.TensorType(array.shape, "float32") for array in args[1:]]
    function = compile_op(build_op(ops.instance_threshold, types))
    for count in (1, 5):
        args[0] = rng.standard_normal((count, 20), np.float32)
        error = np.abs(function(*args) - reference.instance_threshold(*args))
        assert np.all(error <= tolerance(args))


GOOD = [(2, 8), (8,), (8,), (3, 8), (3,), (8, 3), (8,)]


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (8,), "m) has rank 1; pass a tensor of dtype float32 and rank 2"),
        (1, (7,), "dimension 0 of a is 7, but must be 8 (m has 8 channels"),
        (3, (3, 7), "dimension 1 of w1 is 7, but must be 8"),
        (5, (8, 4), "dimension 1 of w2 is 4, but must be 3 (m has 8 channels, w1 has 3 rows)"),
        (6, (1,), "dimension 0 of b2 is 1, but must be 8"),
    ],
)
def test_shape_errors(infer, index, shape, message):
    shapes = list(GOOD)
    infer(ops.instance_threshold, *((s, "float32") for s in shapes))
    shapes[index] = shape
    with pytest.raises(OpError) as caught:
        infer(ops.instance_threshold, *((s, "float32") for s in shapes))
    assert message in str(caught.value)


def test_argument_count(infer):
    with pytest.raises(OpError, match="got 5 arguments; pass m, a, b or m, a, b, w1, b1, w2, b2"):
        infer(ops.instance_threshold, *((s, "float32") for s in GOOD[:5]))
