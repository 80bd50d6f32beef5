"""Largest and smallest elements: any axes, types and numbers that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import tvm_insta
from tests.frontend.onnx.cases import X, ints
from tests.frontend.onnx.models import agree, by_us, graph
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import trace_and_fold
from tvm_insta.frontend.onnx import load, onnx_module

KINDS = {np.float32: TensorProto.FLOAT, np.int32: TensorProto.INT32, np.int64: TensorProto.INT64}
KINDS |= {np.int8: TensorProto.INT8, np.uint8: TensorProto.UINT8}


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("axes", [(0,), (1,), (-1,), (1, 3), (0, 2), (0, 1, 2, 3), ()])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_any_axes(op, axes, keepdims):
    for kind, element in KINDS.items():
        data = (X * 20).astype(kind) if kind != np.uint8 else np.abs(X * 20).astype(kind)
        node = helper.make_node(op, ["x", "axes"], ["y"], keepdims=keepdims)
        agree(graph([node], {"x": data}, {"axes": ints(*axes)}, opset=18, out=element), {"x": data})


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("inputs", [["x"], ["x", ""], ["x", "none"]])
def test_no_axes(op, noop, inputs):
    node = helper.make_node(op, inputs, ["y"], noop_with_empty_axes=noop)
    agree(graph([node], {"x": X}, {"none": ints()}, opset=18), {"x": X})


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceLogSumExp"])
def test_what_is_no_number_stays_none(op):
    """ONNX leaves it open; PyTorch's maximum has it, and the artefact has PyTorch's."""
    data = X[:1, :, :, 0].copy()
    data[0, 1, 3] = np.nan
    data[0, 2, 4] = np.inf
    node = helper.make_node(op, ["x"], ["y"], axes=[2], keepdims=0)
    model = graph([node], {"x": data})
    (found,) = by_us(model, {"x": data})
    function = torch.logsumexp if op == "ReduceLogSumExp" else getattr(torch, f"a{op[6:].lower()}")
    np.testing.assert_allclose(found, function(torch.from_numpy(data), 2).numpy(), rtol=1e-6)
    assert np.isnan(found[0, 1])
    np.testing.assert_allclose(tvm_insta.build_onnx(model)(data), found, rtol=1e-6)


def test_one_operator():
    """A tree of slices was made of it, for an importer of TVM that is not used."""
    node = helper.make_node("ReduceMax", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)
    module = onnx_module(load(graph([node], {"x": X}, batch="N")))
    traced = trace_and_fold(module, [torch.zeros(1, *X.shape[1:])], max_batch=8, dynamic=True)
    calls = [str(n.target) for n in traced.graph.nodes if n.op == "call_function"]
    assert [call for call in calls if "assert" not in call] == ["aten.amax.default"]


def test_a_maximum_over_nothing_is_refused():
    nodes = [
        helper.make_node("Slice", ["x", "zero", "zero", "two"], ["e"]),
        helper.make_node("ReduceMax", ["e"], ["y"], axes=[2]),
    ]
    with pytest.raises(ImportModelError, match="'y'"):
        by_us(graph(nodes, {"x": X}, {"zero": ints(0), "two": ints(2)}), {"x": X})


WITHOUT_ROOTS = ["ReduceL1", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"]


@pytest.mark.parametrize("op", WITHOUT_ROOTS)
@pytest.mark.parametrize("noop", [0, 1])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_integers_stay_of_their_type(op, noop, kind):
    """With axes, without them, and where nothing is reduced; means are cut towards 0."""
    data = (X * 20).astype(kind)
    how = {"noop_with_empty_axes": noop, "keepdims": 0}
    for inputs in (["x"], ["x", "none"], ["x", "axes"]):
        constants = {"none": ints(), "axes": ints(1, -1)}
        node = helper.make_node(op, inputs, ["y"], **how)
        agree(graph([node], {"x": data}, constants, opset=18, out=KINDS[kind]), {"x": data})
