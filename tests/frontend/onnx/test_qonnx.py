"""QONNX's quantisers against an oracle in numpy, and against QONNX's own executor."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.frontend.onnx.cases import floats
from tests.frontend.onnx.models import LAST, QONNX, by_us, graph
from tvm_insta.frontend.onnx.operators.qonnx import DOMAINS, integer_range

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.standard_normal(500) * 3, np.arange(-48, 49) / 8]).astype(np.float32)
X = X[: 2 * 3 * 99].reshape(2, 3, 99)  # ties of every step, signs of both kinds
MODES = ("ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN")
BREVITAS = (*MODES, "ROUND_TO_ZERO")  # QONNX's own executor does not know the last one


def rounded(x, mode):
    """Each mode by its definition, element by element on exact halves."""
    whole = np.trunc(x)
    rest = np.abs(x - whole)
    away = whole + np.sign(x)
    nearest = np.where(rest > 0.5, away, whole)
    even = np.where(whole % 2 == 0, whole, away)
    return {
        "CEIL": np.ceil(x),
        "FLOOR": np.floor(x),
        "DOWN": whole,
        "ROUND_TO_ZERO": whole,
        "UP": np.where(rest > 0, away, whole),
        "HALF_UP": np.where(rest == 0.5, away, nearest),
        "HALF_DOWN": nearest,
        "HALF_EVEN": np.where(rest == 0.5, even, nearest),
        "ROUND": np.where(rest == 0.5, even, nearest),
    }[mode]


def quantised(x, scale, zero, bits, signed, narrow, mode):
    """The definition: scale, clamp, round, scale back; each step rounds to float32."""
    low = -(2 ** (bits - 1)) + narrow if signed else 0
    high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    y = (x / scale).astype(np.float32) + zero
    if bits == 1 and signed:
        codes = np.where(y >= 0, np.float32(1), np.float32(-1))
    else:
        codes = rounded(np.clip(y, low, high), mode).astype(np.float32)
    return ((codes - zero) * scale).astype(np.float32)


def quant_model(x, scale, zero, bits, op="Quant", domain=QONNX, **attributes):
    node = helper.make_node(op, ["x", "s", "z", "b"], ["y"], domain=domain, **attributes)
    constants = {"s": np.float32(scale), "z": np.float32(zero), "b": np.float32(bits)}
    domains = {domain: 1} if domain else {}
    return graph([node], {"x": x}, constants, domains=domains)


GRID = list(itertools.product((1, 2, 3, 4, 8), (0, 1), (0, 1), BREVITAS))


@pytest.mark.parametrize(("bits", "signed", "narrow", "mode"), GRID)
def test_quant_is_exact(bits, signed, narrow, mode):
    attributes = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
    for given_scale, zero in ((0.25, 0), (0.3, 0), (0.25, 1), (RNG.random((3, 1)) + 0.1, 0)):
        scale = np.float32(given_scale)
        found = by_us(quant_model(X, scale, zero, bits, **attributes), {"x": X})[0]
        expected = quantised(X, scale, np.float32(zero), bits, signed, narrow, mode)
        assert (found == expected).all()


@settings(max_examples=60, deadline=None, derandomize=True, print_blob=True)
@given(
    bits=st.integers(1, 8),
    signed=st.booleans(),
    narrow=st.booleans(),
    mode=st.sampled_from(MODES),
    scale=st.floats(2**-10, 2**6, width=32),
    zero=st.integers(-3, 3),
)
def test_quant_of_any_scale(bits, signed, narrow, mode, scale, zero):
    attributes = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": mode}
    x = X * np.float32(scale)
    found = by_us(quant_model(x, scale, zero, bits, **attributes), {"x": x})[0]
    scale, zero = np.float32(scale), np.float32(zero)
    assert (found == quantised(x, scale, zero, bits, signed, narrow, mode)).all()


def test_integer_range():
    """Against counting: as many integers as the bits have codes, one less where narrow."""
    for bits, signed, narrow in itertools.product(range(1, 9), (False, True), (False, True)):
        low, high = integer_range(bits, signed, narrow)
        assert high - low + 1 == 2**bits - narrow
        assert low == 0 if not signed else low == -high - 1 + narrow


@pytest.mark.parametrize("domain", [*DOMAINS, ""])
@pytest.mark.parametrize("imported", [True, False])
def test_every_domain(domain, imported):
    """Files in the wild have many names for it, and often do not import it."""
    model = quant_model(X, 0.5, 0, 3, domain=domain, signed=1, narrow=0)
    if not imported:
        kept = [each for each in model.opset_import if each.domain == ""]
        del model.opset_import[:]
        model.opset_import.extend(kept)
    expected = quantised(X, np.float32(0.5), 0, 3, 1, 0, "ROUND")
    assert (by_us(model, {"x": X})[0] == expected).all()


@pytest.mark.parametrize("scale", [1.0, 0.3, "channel"])
def test_bipolar(scale):
    scale = np.float32(RNG.random((3, 1)) + 0.1 if scale == "channel" else scale)
    node = helper.make_node("BipolarQuant", ["x", "s"], ["y"], domain=QONNX)
    found = by_us(graph([node], {"x": X}, {"s": scale}, domains={QONNX: 1}), {"x": X})[0]
    assert (found == np.where(X >= 0, scale, -scale)).all()
    assert np.signbit(X[X == 0]).size and (found[X == 0] > 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_trunc(mode):
    """Version 1 keeps the scale, version 2 has one of its own."""
    whole = np.round(X * 4).astype(np.float32) * np.float32(0.25)
    four = {"s": np.float32(0.25), "z": np.float32(0), "i": np.float32(8)}
    one = helper.make_node("Trunc", [*"xszi", "o"], ["y"], domain=QONNX, rounding_mode=mode)
    model = graph([one], {"x": whole}, four | {"o": np.float32(6)}, domains={QONNX: 1})
    codes = rounded(whole / np.float32(0.25) / 4, mode)
    assert (by_us(model, {"x": whole})[0] == (codes * np.float32(0.25)).astype(np.float32)).all()
    two = helper.make_node("Trunc", [*"xszi", "t", "o"], ["y"], domain=QONNX, rounding_mode=mode)
    constants = four | {"t": np.float32(1), "o": np.float32(3)}
    model = graph([two], {"x": whole}, constants, domains={QONNX: 2})
    expected = rounded(np.clip(whole / np.float32(0.25) / 4, -4, 3), mode)
    assert (by_us(model, {"x": whole})[0] == expected).all()


@pytest.mark.parametrize(
    ("shape", "layout", "axis"),
    [
        ((2, 5), "", 1),
        ((2, 5, 4), "", 2),
        ((2, 3, 4, 4), "", 1),
        ((2, 3, 4, 4), "NCHW", 1),
        ((2, 4, 4, 3), "NHWC", 3),
    ],
)
@pytest.mark.parametrize("single", [True, False])
def test_multi_threshold(shape, layout, axis, single):
    x = floats(*shape)
    table = np.sort(floats(1 if single else shape[axis], 3), axis=1)
    x.reshape(-1)[0] = table[0, 0]  # a threshold is reached by what equals it
    layout = {"data_layout": layout} if layout else {}
    node = helper.make_node(
        "MultiThreshold",
        ["x", "t"],
        ["y"],
        domain=QONNX,
        out_dtype="INT2",
        out_scale=2.0,
        out_bias=-3.0,
        **layout,
    )
    found = by_us(graph([node], {"x": x}, {"t": table}, domains={QONNX: 1}), {"x": x})[0]
    moved = np.moveaxis(x, axis, -1)[..., None]
    expected = np.moveaxis((moved >= table).sum(-1) * 2.0 - 3.0, -1, axis)
    assert (found == expected).all()


def test_channels_last():
    """Convolution, normalisation and pool on images whose channels come last."""
    x, w = floats(2, 6, 7, 4), floats(5, 3, 2, 4)
    vectors = {name: floats(5, low=0.5) for name in "gbmv"}
    last = [
        helper.make_node(
            "Conv",
            ["x", "w"],
            ["c"],
            domain=LAST,
            strides=[2, 1],
            pads=[1, 0, 1, 1],
            kernel_shape=[3, 2],
            dilations=[1, 1],
            group=1,
        ),
        helper.make_node(
            "BatchNormalization", ["c", *"gbmv"], ["n"], domain=LAST, epsilon=1e-5, momentum=0.9
        ),
        helper.make_node(
            "MaxPool",
            ["n"],
            ["y"],
            domain=LAST,
            kernel_shape=[2, 2],
            strides=[1, 1],
            pads=[0, 0, 0, 0],
        ),
    ]
    first = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])]
    for node in last:
        copy = type(node)()
        copy.CopyFrom(node)
        copy.domain = ""
        first.append(copy)
    first[1].input[0] = "t"
    first[3].output[0] = "p"
    first.append(helper.make_node("Transpose", ["p"], ["y"], perm=[0, 2, 3, 1]))
    found = by_us(graph(last, {"x": x}, {"w": w} | vectors, domains={LAST: 1}), {"x": x})
    constants = {"w": w.transpose(0, 3, 1, 2)} | vectors
    expected = by_us(graph(first, {"x": x}, constants), {"x": x})
    assert (found[0] == expected[0]).all()


def test_xnor_popcount():
    x, w = (
        RNG.integers(0, 2, (4, 9)).astype(np.float32),
        RNG.integers(0, 2, (9, 3)).astype(np.float32),
    )
    node = helper.make_node("XnorPopcountMatMul", ["x", "w"], ["y"], domain="finn")
    found = by_us(graph([node], {"x": x}, {"w": w}, domains={"finn": 1}), {"x": x})[0]
    assert (found == (x[:, :, None] == w[None]).sum(1)).all()


def test_quantised_as_bytes():
    """Codes between QuantizeLinear and DequantizeLinear are floats; anything else sees bytes."""
    constants = {"s": np.float32(0.5), "z": np.int8(3), "lo": np.int8(-2), "hi": np.int8(5)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("Clip", ["q", "lo", "hi"], ["k"]),
        helper.make_node("Abs", ["k"], ["n"]),
        helper.make_node("DequantizeLinear", ["n", "s", "z"], ["y"]),
    ]
    from tests.frontend.onnx.models import agree

    agree(graph(nodes, {"x": X}, constants), {"x": X})


def test_against_qonnx():
    """QONNX's own executor, where it is installed."""
    pytest.importorskip("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    from tests.frontend.onnx.networks import qonnx

    cases = [
        quant_model(X, scale, zero, bits, signed=signed, narrow=narrow, rounding_mode=mode)
        for bits, signed, narrow, mode in GRID[::3]
        if mode in MODES
        for scale, zero in ((0.25, 0), (0.3, 1))
    ]
    for model in cases:
        wrapped = ModelWrapper(model)
        for output in wrapped.graph.output:
            wrapped.set_tensor_shape(output.name, list(X.shape), TensorProto.FLOAT)
        expected = execute_onnx(wrapped, {"x": X})["y"]
        assert (by_us(model, {"x": X})[0] == expected).all()
    model, inputs = qonnx()
    from qonnx.util.cleanup import cleanup_model

    wrapped = cleanup_model(ModelWrapper(model))
    name = wrapped.graph.input[0].name
    expected = next(iter(execute_onnx(wrapped, {name: inputs["x"]}).values()))
    np.testing.assert_allclose(by_us(model, inputs)[0], expected, atol=1e-4)


def test_the_simple_rounding_is_the_general_one():
    """Where nothing is negative a mode is written without signs: the same numbers."""
    from tvm_insta.frontend.onnx.operators.qonnx import _rounding

    x = torch.arange(0, 200) / 8
    for mode in MODES:
        assert torch.equal(_rounding(mode, 0)(x), _rounding(mode, -1)(x)), mode
