"""Quirks of exporters that say nothing about numbers, and sentences that say what to mend."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.frontend.onnx.models import agree, by_us, graph
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx import load, onnx_module, settle

X = np.linspace(-2, 2, 2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
WEIGHT = np.ones((5, 3, 2, 2), np.float32)


def test_bit_widths_noted_at_standard_operators():
    def network(**noted):
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], **noted),
            helper.make_node("Relu", ["c"], ["y"], **noted),
        ]
        return graph(nodes, {"x": X}, {"w": WEIGHT})

    agree(network(), {"x": X})
    (ours,) = by_us(network(weight_bits=2, bias_bits=32, out_bits=8), {"x": X})
    np.testing.assert_array_equal(ours, by_us(network(), {"x": X})[0])
    with pytest.raises(ImportModelError, match="in1_mul"):  # this one changes the numbers
        load(network(in1_mul=3))


def test_an_operator_of_an_unknown_domain_is_named():
    """Whether the file imports the domain or not."""
    node = helper.make_node("Thing", ["x"], ["y"], domain="vendor.hardware")
    for domains in ({}, {"vendor.hardware": 1}):
        model = graph([node], {"x": X}, domains=domains)
        with pytest.raises(ImportModelError, match=r"Thing of domain .vendor\.hardware."):
            load(model)


def test_an_output_without_a_batch_is_named():
    """Some exporters write constants among the outputs."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["c"], ["scale"])]
    model = graph(nodes, {"x": X}, {"c": np.float32(0.5)}, ("y", "scale"), batch="N")
    with pytest.raises(ImportModelError, match="the output 'scale' has the shape"):
        settle(onnx_module(load(model)))
