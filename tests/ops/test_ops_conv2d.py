"""The float convolutions: oracle against torch, both kernels against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tvm import relax, tirx

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference


def tolerance(data, weight, attrs):
    """Bound of a float32 sum: each of its n additions and products errs by half a unit.

    |error| <= n * 2**-24 * sum |data * weight| to first order; one n more covers the rest.
    """
    terms = weight[0].size + 1
    magnitude = reference.conv2d(np.abs(data), np.abs(weight), **attrs)
    return (terms + 1) * 2.0**-24 * magnitude + 1e-30


CASES = {
    "7x7 stride 2": ((2, 9, 8, 3), (8, 7, 7), dict(strides=(2, 2), padding=(3, 3, 3, 3))),
    "1x1": ((1, 3, 4, 20), (12, 1, 1), {}),
    "3x3": ((2, 5, 5, 6), (4, 3, 3), dict(padding=(1, 1, 1, 1))),
    "lopsided": ((1, 4, 6, 5), (4, 2, 3), dict(padding=(1, 0, 0, 2), strides=(1, 2))),
    "dilation": ((1, 7, 8, 3), (4, 3, 3), dict(padding=(2, 3, 2, 3), dilation=(2, 3))),
    "groups": ((1, 4, 4, 6), (12, 3, 3), dict(padding=(1, 1, 1, 1), groups=3)),
    "depthwise": ((1, 4, 4, 8), (8, 3, 3), dict(padding=(1, 1, 1, 1), groups=8)),
    "one pixel": ((1, 1, 1, 4), (4, 3, 3), dict(padding=(1, 1, 1, 1))),
}
DEFAULTS = dict(strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)


@pytest.mark.parametrize(("shape", "kernel", "changes"), CASES.values(), ids=CASES.keys())
def test_oracle_and_kernels(rng, run_op, shape, kernel, changes):
    attrs = DEFAULTS | changes
    data = rng.standard_normal(shape, np.float32)
    weight = rng.standard_normal((*kernel, shape[3] // attrs["groups"]), np.float32)
    expected = reference.conv2d(data, weight, **attrs)
    top, left, bottom, right = attrs["padding"]
    image = torch.from_numpy(data.astype(np.float64)).permute(0, 3, 1, 2)
    definition = torch.nn.functional.conv2d(
        torch.nn.functional.pad(image, (left, right, top, bottom)),
        torch.from_numpy(weight.astype(np.float64)).permute(0, 3, 1, 2),
        stride=attrs["strides"],
        dilation=attrs["dilation"],
        groups=attrs["groups"],
    )
    # Both sum in float64 and round once, so a float32 unit apart at most (order of summation).
    np.testing.assert_allclose(expected, definition.permute(0, 2, 3, 1), rtol=2**-23, atol=1e-12)

    bound = tolerance(data, weight, attrs)
    canonical = run_op(ops.conv2d, data, weight, **attrs)
    assert np.all(np.abs(canonical - expected) <= bound)
    blocked_weight = packing.block_weight(weight, 4)
    np.testing.assert_array_equal(reference.conv2d_blocked(data, blocked_weight, **attrs), expected)
    blocked = run_op(ops.conv2d_blocked, data, blocked_weight, **attrs)
    assert np.all(np.abs(blocked - expected) <= bound)


def test_symbolic_batch(rng, build_op, compile_op):
    weight = rng.standard_normal((4, 3, 3, 5), np.float32)
    attrs = DEFAULTS | dict(padding=(1, 1, 1, 1))
    batch = tirx.Var("n", "int64")
    types = [
        relax.TensorType([batch, 4, 5, 5], "float32"),
        relax.TensorType([1, 3, 3, 5, 4], "float32"),
    ]
    function = compile_op(build_op(ops.conv2d_blocked, types, **attrs))
    for count in (1, 3):
        data = rng.standard_normal((count, 4, 5, 5), np.float32)
        result = function(data, packing.block_weight(weight, 4))
        error = np.abs(result - reference.conv2d(data, weight, **attrs))
        assert np.all(error <= tolerance(data, weight, attrs))


@pytest.mark.parametrize(
    ("builder", "weight", "attrs", "message"),
    [
        (ops.conv2d, (8, 3, 3, 5), {}, "dimension 3 of weight is 5, but must be 6"),
        (
            ops.conv2d,
            (2, 3, 3, 6, 4),
            {},
            "has rank 5; pass a tensor of dtype float32",
        ),
        (
            ops.conv2d_blocked,
            (8, 3, 3, 6),
            {},
            "has rank 4; pass a tensor of dtype float32",
        ),
        (ops.conv2d, (8, 3, 3, 6), {"groups": 4}, "6 input channels do not split into groups=4"),
        (ops.conv2d, (8, 6, 3, 6), {}, "reaches over 6 pixels of height, but the padded image has"),
        (ops.conv2d, (8, 3, 3, 6), {"strides": [1]}, "strides is [1]; pass 2 integers"),
    ],
)
def test_errors(infer, builder, weight, attrs, message):
    with pytest.raises(OpError) as caught:
        infer(builder, ((1, 5, 5, 6), "float32"), (weight, "float32"), **attrs)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"insta.{builder.__name__}: ")
