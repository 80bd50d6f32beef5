"""conv2d_narrow: plain and scheduled against the oracle, and the oracle against float32."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_insta import ops
from tvm_insta.errors import OpError
from tvm_insta.ops import packing, reference
from tvm_insta.passes.pipeline import fuse
from tvm_insta.schedules import schedule_module
from tvm_insta.target import parse

HOST = parse("llvm")
NEEDS = {"bf16": {"avx512bf16"}, "int8": {"avx512vnni"}}
KINDS = ("bf16", "int8", "signed")  # the last one is int8 with codes around 0, for Arm

# height, width, channels, out, kernel, stride, padding: stems, shortcuts, a dense layer
SHAPES = [
    (20, 14, 3, 32, 7, 2, (3, 3, 3, 3)),
    (9, 11, 3, 16, 3, 1, (1, 1, 1, 1)),
    (9, 8, 3, 8, 3, 2, (0, 1, 2, 1)),
    (7, 5, 64, 48, 1, 1, (0, 0, 0, 0)),
    (1, 1, 33, 40, 1, 1, (0, 0, 0, 0)),
    (5, 6, 5, 4, 2, 1, (0, 0, 0, 0)),
]


def problem(rng, kind, shape):
    kind, signed = ("int8", True) if kind == "signed" else (kind, False)
    height, width, channels, out, kernel, stride, padding = shape
    data = rng.standard_normal((2, height, width, channels), np.float32)
    weight = rng.standard_normal((out, kernel, kernel, channels), np.float32)
    lanes = next(lanes for lanes in (16, 8, 4) if out % lanes == 0)
    packed, sums, steps = packing.narrow_weight(weight, kind, lanes)
    attrs = {"kind": kind, "kernel_width": kernel, "strides": [stride] * 2, "padding": padding}
    if kind == "int8":
        attrs |= {"scale": 127 / float(np.abs(data).max()), "zero": 0 if signed else 128}
    return data, weight, packed, sums, steps, attrs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_oracle_is_close_to_float32(rng, kind, shape):
    data, weight, packed, sums, steps, attrs = problem(rng, kind, shape)
    geometry = {"strides": attrs["strides"], "padding": attrs["padding"]}
    exact = reference.conv2d(data, weight, **geometry)
    got = reference.conv2d_narrow(data, packed, **attrs)
    if kind != "bf16":
        got = (got - attrs["zero"] * sums) * (steps / attrs["scale"])
    # Each factor is off by at most 2**-9 of itself (bf16) or by half a step, 1/254 of the largest.
    magnitude = reference.conv2d(np.abs(data), np.abs(weight), **geometry)
    if kind == "bf16":
        assert (np.abs(got - exact) <= 2 * 2.0**-9 * 1.01 * magnitude).all()
    else:
        taps = weight[0].size
        bound = taps * np.abs(data).max() * np.abs(weight).max() * (2 / 254) * 1.01
        assert np.abs(got - exact).max() <= bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unscheduled_kernel(rng, run_op, kind, shape):
    data, _, packed, _, _, attrs = problem(rng, kind, shape)
    result = run_op(ops.conv2d_narrow, data, packed, **attrs)
    compare(result, data, packed, attrs)


@pytest.mark.parametrize("kind", NEEDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scheduled_kernel(rng, build_op, kind, shape):
    if not NEEDS[kind] <= HOST.features:
        pytest.skip(f"this CPU has no {', '.join(NEEDS[kind])}")
    data, _, packed, _, _, attrs = problem(rng, kind, shape)
    types = [relax.TensorType(a.shape, str(a.dtype)) for a in (data, packed)]
    mod = fuse(build_op(ops.conv2d_narrow, types, **attrs))
    scheduled, (record,) = schedule_module(mod, HOST.tvm, lanes=HOST.lanes)
    assert (record.rule, record.reason) == ("insta_fconv", "")
    machine = relax.VirtualMachine(tvm.compile(scheduled, HOST.tvm), tvm.cpu())
    result = machine["main"](*map(tvm.runtime.tensor, (data, packed))).numpy()
    compare(result, data, packed, attrs)


def compare(result, data, packed, attrs):
    expected = reference.conv2d_narrow(data, packed, **attrs)
    if attrs["kind"] == "int8":
        np.testing.assert_array_equal(result, expected)
    else:
        # float32 sums of up to 147 products, each rounded by 2**-24 of sums around 10
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=147 * 2.0**-24 * 10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unsigned_and_signed_codes_give_the_same_integers(rng, shape):
    data, _, packed, sums, _, attrs = problem(rng, "int8", shape)
    unsigned = reference.conv2d_narrow(data, packed, **attrs) - 128 * sums
    signed = reference.conv2d_narrow(data, packed, **{**attrs, "zero": 0})
    np.testing.assert_array_equal(unsigned, signed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "fp8"}, "kind is 'fp8'; pass one of 'bf16', 'int8'"),
        ({"scale": 0.0}, "scale is 0.0; pass a number above 0"),
        ({"zero": 1}, "zero is 1; pass 128 for uint8 codes or 0 for int8 codes"),
        ({"kernel_width": 8}, "dimension 3 of weight is 11, but must be 12"),
    ],
)
def test_errors(infer, change, message):
    attrs = {"kind": "bf16", "kernel_width": 7, **change}
    with pytest.raises(OpError) as caught:
        infer(ops.conv2d_narrow, ((1, 9, 9, 3), "float32"), ((1, 7, 1, 11, 16), "uint32"), **attrs)
    assert message in str(caught.value)
