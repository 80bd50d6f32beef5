"""Multiply-accumulates of layers: what a file may ask for is counted in them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.frontend.onnx.cases import floats
from tests.frontend.onnx.models import graph
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx import batch, load, onnx_module
from tvm_insta.frontend.onnx.batch import rehearse

M, K, N = 2, 5, 7


def codes(*shape):
    """Bytes."""
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


SCALES = {"s": np.float32(0.1), "z": np.uint8(3)}
"""Of quantised tensors."""
QLINEAR = ["a", "s", "z", "b", "s", "z", "s", "z"]
LAYERS = {
    "Gemm": (["a", "b"], {}, floats(M, K), floats(K, N), M * K * N),
    "Gemm A": (["a", "b"], {"transA": 1}, floats(K, M), floats(K, N), M * K * N),
    "Gemm B": (["a", "b"], {"transB": 1}, floats(M, K), floats(N, K), M * K * N),
    "Gemm AB": (["a", "b"], {"transA": 1, "transB": 1}, floats(K, M), floats(N, K), M * K * N),
    "MatMul": (["a", "b"], {}, floats(3, M, K), floats(K, N), 3 * M * K * N),
    "MatMul of stacks": (["a", "b"], {}, floats(3, M, K), floats(3, K, N), 3 * M * K * N),
    "MatMul of vectors": (["a", "b"], {}, floats(M, K), floats(K), M * K),
    "MatMulInteger": (["a", "b", "z", "z"], {}, codes(M, K), codes(K, N), M * K * N),
    "QLinearMatMul": (QLINEAR, {}, codes(M, K), codes(K, N), M * K * N),
    "Conv": (["a", "b"], {}, floats(2, 4, 6, 5), floats(8, 4, 3, 3), 2 * 8 * 4 * 3 * 4 * 9),
    "Conv of groups": (
        ["a", "b"],
        {"group": 2},
        floats(2, 4, 6, 5),
        floats(8, 2, 3, 3),
        2 * 8 * 4 * 3 * 2 * 9,
    ),
    "ConvInteger": (["a", "b"], {}, codes(2, 4, 6, 5), codes(8, 4, 3, 3), 2 * 8 * 4 * 3 * 4 * 9),
    "QLinearConv": (QLINEAR, {}, codes(2, 4, 6, 5), codes(8, 4, 3, 3), 2 * 8 * 4 * 3 * 4 * 9),
    "ConvTranspose": (["a", "b"], {}, floats(2, 4, 6, 5), floats(4, 8, 3, 3), 2 * 4 * 30 * 8 * 9),
}


@pytest.mark.parametrize("constant", ["weight", "data", "none"])
@pytest.mark.parametrize("name", LAYERS)
def test_products(name, constant, monkeypatch):
    """K of a product is the data's, whichever operand is turned round, quantised or constant."""
    inputs, attributes, a, b, expected = LAYERS[name]
    op = name.split()[0]
    given = {"a": a, "b": b}
    constants = dict(SCALES) if op.startswith("QLinear") or "z" in inputs else {}
    for which, operand in (("weight", "b"), ("data", "a")):
        if constant == which:
            constants[operand] = given.pop(operand)
    node = helper.make_node(op, inputs, ["y"], **attributes)
    kind = TensorProto.UINT8 if op.startswith("QLinear") else TensorProto.FLOAT
    kind = TensorProto.INT32 if op.endswith("Integer") else kind
    module = onnx_module(load(graph([node], given, constants, out=kind)))
    counted = []
    count = batch.macs
    monkeypatch.setattr(batch, "macs", lambda *args: counted.append(count(*args)) or counted[-1])
    rehearse(module, [array.shape for array in given.values()])
    assert counted == [expected]


def test_a_long_row_is_no_large_product():
    """Gemm(transB=1) counted its outputs twice: 2^18 by 2^18, in place of 2^18 by 4."""
    size = 1 << 18
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    model = graph([node], {"x": floats(1, 4)}, {"w": np.ones((size, 4), np.float32)})
    assert rehearse(onnx_module(load(model)), [(1, 4)]) == [(1, size)]


def test_a_large_product_is_refused(monkeypatch):
    """The sums of QLinearMatMul were not counted at all."""
    inputs, _, a, b, _ = LAYERS["QLinearMatMul"]
    node = helper.make_node("QLinearMatMul", inputs, ["y"])
    model = graph([node], {"a": a}, {"b": b, **SCALES}, out=TensorProto.UINT8)
    module = onnx_module(load(model))
    monkeypatch.setattr(batch, "MACS", K * N)  # of one image
    rehearse(module, [a.shape])
    monkeypatch.setattr(batch, "MACS", K * N - 1)
    with pytest.raises(ImportModelError, match=f"{K * N} multiply-accumulates"):
        rehearse(module, [a.shape])
