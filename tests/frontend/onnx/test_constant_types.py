"""A zero point has the element type of the file, whatever node or initialiser it comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tests.frontend.onnx.models import by_us, graph

X = np.linspace(-60, 60, 96, dtype=np.float32).reshape(2, 4, 3, 4)
RANGES = {
    "UINT8": (0, 255),
    "INT8": (-128, 127),
    "INT16": (-32768, 32767),
    "UINT4": (0, 15),
    "INT4": (-8, 7),
}
SOURCES = ("initialiser", "Constant", "Identity", "Reshape", "Cast", "ConstantOfShape")


def zero_point(source, element, value):
    """Nodes and initialisers that give "z" of one number."""
    tensor = helper.make_tensor("z", element, [1], [value])
    if source == "initialiser":
        return [], {"z": tensor}
    if source == "ConstantOfShape":
        made = helper.make_node(source, ["one"], ["z"], value=tensor)
        return [made], {"one": np.array([1], np.int64)}
    if source == "Cast":
        return [helper.make_node(source, ["n"], ["z"], to=element)], {"n": np.int32([value])}
    constant = helper.make_node("Constant", [], ["z" if source == "Constant" else "c"])
    constant.attribute.append(helper.make_attribute("value", tensor))
    if source == "Constant":
        return [constant], {}
    inputs = ["c", "one"] if source == "Reshape" else ["c"]
    one = {"one": np.array([1], np.int64)} if source == "Reshape" else {}
    return [constant, helper.make_node(source, inputs, ["z"])], one


@pytest.mark.parametrize("value", [0, 3])
@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_range_of_codes(source, kind, value):
    low, high = RANGES[kind]
    nodes, constants = zero_point(source, getattr(TensorProto, kind), value)
    nodes += [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = graph(nodes, {"x": X}, {"s": np.float32([0.25]), **constants}, opset=21)
    (found,) = by_us(model, {"x": X})
    codes = torch.round(torch.from_numpy(X) / 0.25) + value
    expected = (codes.clamp(low, high) - value) * 0.25
    assert (found == expected.numpy()).all()


@pytest.mark.parametrize("source", SOURCES)
def test_quantised_weights(source):
    """Weights that are quantised in the file, as torch.onnx writes fake quantisation."""
    weight = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
    nodes, constants = zero_point(source, TensorProto.INT8, 0)
    nodes += [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["v"]),
        helper.make_node("Gemm", ["x", "v"], ["y"], transB=1),
    ]
    x = np.float32([[1, -1, 1, 1]])
    model = graph(nodes, {"x": x}, {"s": np.float32([1.0]), "w": weight, **constants}, opset=21)
    assert (by_us(model, {"x": x})[0] == x @ np.round(weight).T).all()
