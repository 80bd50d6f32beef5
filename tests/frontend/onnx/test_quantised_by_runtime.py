"""What ONNX Runtime's quantiser writes, through the whole compiler, to the last integer."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import tvm_insta
from tests.frontend.onnx.models import by_runtime, graph
from tvm_insta.errors import ImportModelError

SEED = 11
RNG = np.random.default_rng(SEED)
X = (RNG.integers(-16, 17, (3, 4, 6, 5)) / 8).astype(np.float32)
ROWS = X.reshape(3, -1)[:, :48]
U8, I8 = np.uint8, np.int8


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def dynamic_product():
    """`quantize_dynamic` on a product."""
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulInteger", "q w z wz", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "s ws", "ss"),
        node("Mul", "f ss", "y"),
    ]
    constants = {"w": RNG.integers(-127, 128, (48, 10)).astype(I8), "wz": I8(0)}
    return graph(nodes, {"x": ROWS}, constants | {"ws": np.float32(0.013)}, batch="N"), ROWS


def dynamic_convolution():
    """`quantize_dynamic` on a convolution: its zero point is computed, and pads it."""
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("ConvInteger", "q w z wz", "i", pads=[1, 1, 1, 1]),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "s ws", "ss"),
        node("Mul", "f ss", "y"),
    ]
    constants = {"w": RNG.integers(0, 256, (6, 4, 3, 3)).astype(U8), "wz": U8(127)}
    image = X[:1]
    return graph(nodes, {"x": image}, constants | {"ws": np.float32(0.013)}), image


def static_product():
    """`QLinearMatMul`: of its sums times 0.005, many lie in the middle of two codes."""
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearMatMul", "q s z w ws wz ys yz", "p"),
        node("DequantizeLinear", "p ys yz", "y"),
    ]
    constants = {"s": np.float32(0.05), "z": U8(128), "ys": np.float32(0.1), "yz": U8(120)}
    constants |= {"w": RNG.integers(-100, 101, (48, 40)).astype(I8)}
    constants |= {"ws": np.full(40, 0.01, np.float32), "wz": np.zeros(40, I8)}
    return graph(nodes, {"x": ROWS}, constants, batch="N"), ROWS


def test_the_range_of_a_batch_needs_the_batch():
    """The plain-C form runs one image after another, which would give each a range of its own."""
    model, x = dynamic_product()
    with pytest.raises(ImportModelError, match="influence each other"):
        tvm_insta.build_onnx(model, runtime="c", max_batch=len(x))


@pytest.mark.parametrize("runtime", ["vm", "c"])
@pytest.mark.parametrize(
    "make, tolerance",
    [(dynamic_product, 1e-6), (dynamic_convolution, 1e-6), (static_product, 1e-7)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_quantised_layers_compile_and_agree(make, tolerance, runtime):
    model, x = make()
    if make is dynamic_product and runtime == "c":
        x = x[:1]  # the range is that of all images
    artefact = tvm_insta.build_onnx(model, runtime=runtime, max_batch=len(x))
    assert artefact.manifest.options["checked"] == "passed"
    expected = by_runtime(model, {"x": x})[0]
    # One step of the result's codes is 0.1, and the largest are of the order of 10.
    np.testing.assert_allclose(
        artefact(x), expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=f"{SEED}"
    )
