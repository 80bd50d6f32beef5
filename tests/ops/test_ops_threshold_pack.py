"""threshold_pack against a scalar definition (the oracle) and against the oracle (the kernel)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax, tirx

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import reference

COMPARE = {
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "le": lambda a, b: a <= b,
    "lt": lambda a, b: a < b,
}
SLOW_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def scalar_definition(x, thresholds, *, bits, compare, groups, pad, nan=0):
    """The docstring's sentence, one element at a time."""
    if x.ndim == 2:
        x, thresholds = x[:, None, None], thresholds[:, :, None, None]
    n, h, w, c = x.shape
    full = np.broadcast_to(thresholds, (thresholds.shape[0], *x.shape))
    top, left, bottom, right = pad
    per_group = c // groups
    words = (per_group + 31) // 32
    out = np.zeros((n, h + top + bottom, w + left + right, bits * groups * words), np.uint32)
    for i, y, z, channel in np.ndindex(*x.shape):
        value = x[i, y, z, channel]
        code = sum(
            at < nan if np.isnan([value, t]).any() else bool(COMPARE[compare](value, t))
            for at, t in enumerate(full[:, i, y, z, channel])
        )
        group, inner = divmod(channel, per_group)
        for plane in range(bits):
            word = (plane * groups + group) * words + inner // 32
            bit = (code >> plane) & 1
            out[i, y + top, z + left, word] |= np.uint32(bit << (inner % 32))
    return out


def hard_values(rng, shape):
    """Few distinct values, so that many lie on a threshold, with both zeros, NaN and infinities."""
    pool = np.array([-1.5, -0.0, 0.0, 0.25, 1.5, np.nan, np.inf, -np.inf, 1e-45], np.float32)
    return rng.choice(pool, shape)


def random_thresholds(rng, x, bits, kind):
    shape = {
        "channel": [1] * (x.ndim - 1) + [x.shape[-1]],
        "instance": [x.shape[0]] + [1] * (x.ndim - 2) + [x.shape[-1]],
        "scalar": [1] * x.ndim,
        "full": list(x.shape),
    }[kind]
    return hard_values(rng, [2**bits - 1, *shape])


CASES = [
    # shape, thresholds, attributes
    ((2, 3, 4, 32), "channel", dict(bits=1, compare="ge", groups=1, pad=(0, 0, 0, 0))),
    ((2, 3, 4, 40), "instance", dict(bits=1, compare="gt", groups=1, pad=(1, 1, 1, 1))),
    ((1, 1, 1, 1), "scalar", dict(bits=1, compare="le", groups=1, pad=(0, 0, 0, 0))),
    ((1, 5, 1, 64), "full", dict(bits=1, compare="lt", groups=2, pad=(3, 2, 1, 0))),
    ((3, 1, 5, 99), "instance", dict(bits=2, compare="ge", groups=3, pad=(0, 1, 0, 2))),
    ((1, 2, 2, 70), "channel", dict(bits=3, compare="lt", groups=2, pad=(1, 0, 0, 0))),
    ((1, 2, 2, 33), "full", dict(bits=4, compare="ge", groups=1, pad=(0, 0, 0, 0))),
    ((4, 45), "instance", dict(bits=1, compare="ge", groups=1, pad=(0, 0, 0, 0))),
    ((2, 96), "channel", dict(bits=2, compare="le", groups=3, pad=(0, 0, 0, 0))),
    ((2, 3, 4, 64), "channel", dict(bits=1, compare="gt", groups=1, pad=(1, 0, 1, 0), nan=1)),
    ((1, 2, 2, 40), "full", dict(bits=2, compare="le", groups=1, pad=(0, 0, 0, 0), nan=2)),
]


@pytest.mark.parametrize(("shape", "kind", "attrs"), CASES)
def test_oracle_and_kernel(rng, run_op, shape, kind, attrs):
    x = hard_values(rng, shape)
    thresholds = random_thresholds(rng, x, attrs["bits"], kind)
    expected = reference.threshold_pack(x, thresholds, **attrs)
    slow = scalar_definition(x, thresholds, **attrs)
    np.testing.assert_array_equal(expected, slow.reshape(expected.shape))
    np.testing.assert_array_equal(run_op(ops.threshold_pack, x, thresholds, **attrs), expected)


@pytest.mark.parametrize("nan", [0, 1])
@pytest.mark.parametrize("compare", sorted(COMPARE))
def test_special_values(run_op, compare, nan):
    """Every ordered pair of special values: on the threshold, negative zero, NaN, denormal."""
    special = [0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45]
    pairs = np.array(list(itertools.product(special, special)), np.float32)
    x, thresholds = pairs[:, 0].reshape(1, -1), pairs[:, 1].reshape(1, 1, -1)
    words = run_op(ops.threshold_pack, x, thresholds, compare=compare, nan=nan)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[: len(pairs)]
    expected = [
        nan if np.isnan([a, b]).any() else COMPARE[compare](float(a), float(b)) for a, b in pairs
    ]
    np.testing.assert_array_equal(bits, np.array(expected, np.uint8))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW_FIXTURE)
@given(data=st.data())
def test_property(run_op, data):
    draw = data.draw
    groups = draw(st.integers(1, 3))
    bits = draw(st.integers(1, 4))
    image = [draw(st.integers(1, 4)) for _ in range(draw(st.sampled_from([0, 2])))]
    shape = [draw(st.integers(1, 2)), *image, groups * draw(st.integers(1, 40))]
    pad = [draw(st.integers(0, 2)) if image else 0 for _ in range(4)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = hard_values(rng, shape)
    kind = draw(st.sampled_from(["channel", "instance", "scalar", "full"]))
    thresholds = random_thresholds(rng, x, bits, kind)
    compare = draw(st.sampled_from(sorted(COMPARE)))
    nan = draw(st.integers(0, 2**bits - 1))
    attrs = dict(bits=bits, compare=compare, groups=groups, pad=pad, nan=nan)
    np.testing.assert_array_equal(
        run_op(ops.threshold_pack, x, thresholds, **attrs),
        reference.threshold_pack(x, thresholds, **attrs),
    )


def test_symbolic_batch(rng, build_op, compile_op):
    n = tirx.Var("n", "int64")
    types = [
        relax.TensorType([n, 3, 3, 40], "float32"),
        relax.TensorType([1, n, 1, 1, 40], "float32"),
    ]
    function = compile_op(build_op(ops.threshold_pack, types, pad=[1, 1, 1, 1]))
    for batch in (1, 2, 5):
        x = hard_values(rng, (batch, 3, 3, 40))
        thresholds = hard_values(rng, (1, batch, 1, 1, 40))
        expected = reference.threshold_pack(x, thresholds, pad=(1, 1, 1, 1))
        np.testing.assert_array_equal(function(x, thresholds), expected)


X, T = ((2, 3, 4, 40), "float32"), ((1, 1, 1, 1, 40), "float32")


@pytest.mark.parametrize(
    ("shapes", "attrs", "message"),
    [
        (
            (((2, 3, 40), "float32"), T),
            {},
            "pass a tensor of dtype float32 and rank 2 or 4",
        ),
        (
            (((2, 3, 4, 40), "float16"), T),
            {},
            "x) has dtype float16; pass a tensor",
        ),
        ((X, ((1, 1, 1, 40), "float32")), {}, "thresholds) has rank 4"),
        ((X, T), {"bits": 2}, "dimension 0 of thresholds is 1, but must be 3"),
        ((X, T), {"bits": 5}, "bits is 5; pass an integer in 1..4"),
        ((X, T), {"nan": 2}, "nan is 2; pass an integer in 0..1"),
        ((X, T), {"compare": "eq"}, "compare is 'eq'; pass one of 'ge', 'gt', 'le', 'lt'"),
        ((X, T), {"groups": 3}, "40 channels of x do not split into groups=3"),
        ((X, T), {"pad": [1, 1, 1]}, "pad is [1, 1, 1]; pass 4 integers of at least 0"),
        ((X, T), {"pad": [0, 0, -1, 0]}, "pass 4 integers of at least 0"),
        (
            (X, ((1, 1, 1, 2, 40), "float32")),
            {},
            "dimension 3 of thresholds is 2, but must be 1 or 4",
        ),
        (
            (((2, 40), "float32"), ((1, 2, 40), "float32")),
            {"pad": [1, 1, 1, 1]},
            "x has no image to pad",
        ),
    ],
)
def test_errors(infer, shapes, attrs, message):
    with pytest.raises(OpError) as caught:
        infer(ops.threshold_pack, *shapes, **attrs)
    assert message in str(caught.value)
    assert str(caught.value).startswith("insta.threshold_pack: ")
