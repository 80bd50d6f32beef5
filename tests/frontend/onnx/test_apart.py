"""A file of a fixed batch is dynamic only where every image gives what it gives alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from tests.frontend.onnx.cases import floats
from tests.frontend.onnx.models import graph
from tvm_insta.frontend.onnx import apart, load, onnx_module, settle
from tvm_insta.frontend.onnx.layer import OnnxLayer

FLOAT = TensorProto.FLOAT


def dynamic(nodes, constants=None, shape=(1, 3)):
    """Whether a file for one batch is taken with others."""
    model = graph(nodes, {"x": np.zeros(shape, np.float32)}, constants)
    return settle(onnx_module(load(model))).dynamic


def above(name, constant, result):
    """1 where ``name`` is larger than a constant."""
    return [
        helper.make_node("Greater", [name, constant], [f"{result}_b"]),
        helper.make_node("Cast", [f"{result}_b"], [result], to=FLOAT),
    ]


MIXED = {
    "mean": helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
    "largest": helper.make_node("ReduceMax", ["x"], ["m"], axes=[0, 1], keepdims=1),
    "smallest": helper.make_node("ReduceMin", ["x"], ["m"], axes=[0], keepdims=1),
    "sums along the batch": helper.make_node("CumSum", ["x", "zero"], ["m"]),
}


@pytest.mark.parametrize("limit", [-20.0, -3.0, -1.9, 0.0, 1.9, 1.99])
@pytest.mark.parametrize("how", MIXED)
def test_images_that_are_mixed_behind_a_threshold(how, limit):
    """Few random images pass a limit near the end of their range; mixed they are all the same."""
    limit = abs(limit) if how != "smallest" else -abs(limit)
    nodes = [MIXED[how], *above("m", "limit", "t"), helper.make_node("Add", ["x", "t"], ["y"])]
    constants = {"limit": np.float32(limit), "zero": np.int64(0)}
    assert not dynamic(nodes, constants)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_scale_of_the_whole_batch(hidden):
    """DynamicQuantizeLinear takes the range of all images."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "one", "z0"], ["d"]),
    ]
    nodes += above("d", "limit", "t") if hidden else [helper.make_node("Identity", ["d"], ["t"])]
    nodes += [helper.make_node("Add", ["t", "t"], ["y"])]
    constants = {"one": np.float32(1), "z0": np.uint8(0), "limit": np.float32(200)}
    assert not dynamic(nodes, constants, (1, 8))


@pytest.mark.parametrize("factor", [0.2, 0.45, 0.9])
def test_numbers_of_the_batch_behind_a_threshold(factor):
    """As many images as there are, counted into a limit that few numbers reach."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Cast", ["s"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "factor"], ["limit"]),
        *above("x", "limit", "y"),
    ]
    assert not dynamic(nodes, {"factor": np.float32(factor)})


@pytest.mark.parametrize("shape", [(1, 2, 3), (2, 2, 3), (3, 2, 3)])
def test_images_of_one_batch_in_the_file(shape):
    """Pairs that the file itself puts together."""
    own = shape[0]
    mixed = [helper.make_node("ReduceMax", ["x"], ["m"], axes=[0], keepdims=1)]
    mixed += [helper.make_node("Add", ["x", "m"], ["y"])]
    if own == 1:
        assert not dynamic(mixed, shape=shape)
    else:
        with pytest.raises(Exception, match=f"fixes the batch at {own}"):
            dynamic(mixed, shape=shape)
    assert dynamic([helper.make_node("Relu", ["x"], ["y"])], shape=shape)


def test_a_range_of_bytes():
    """Numbers of 0 and 1 alone would hide that all images share one maximum."""
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
        helper.make_node("ReduceMax", ["f"], ["m"], keepdims=0),
        helper.make_node("Div", ["f", "m"], ["y"]),
    ]
    model = graph(nodes, {"x": np.zeros((1, 8), np.uint8)})
    assert not settle(onnx_module(load(model))).dynamic


def test_bytes_that_are_indices():
    """Only 0 and 1 lie in a table of two rows."""
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    model = graph([node], {"x": np.zeros((1, 5), np.uint8)}, {"table": floats(2, 3)})
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64))
    model.graph.node[1].input[1] = "i"
    assert settle(onnx_module(load(model))).dynamic


# -- what rounding may change ---------------------------------------------------------------------


@pytest.fixture
def larger_batches_round_otherwise(monkeypatch):
    """As sums in another order do, by less than a millionth, on every machine."""
    forward = OnnxLayer.forward

    def run(layer, *inputs):
        result = forward(layer, *inputs)
        return result * (1 + 2.0**-22) if result.shape[0] > 1 else result

    monkeypatch.setattr(OnnxLayer, "forward", run)


def signs_of_products(seed, image):
    """A file whose threshold is one product of an image that a seed makes, and its weight."""
    weight = floats(6, 1)
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": floats(1, 6)})
    model.graph.initializer.append(helper.make_tensor("w", FLOAT, [6, 1], weight.ravel().tolist()))
    module = onnx_module(load(model))
    generator = torch.Generator().manual_seed(seed)
    count = apart._IMAGES[seed]
    x = apart._random(module, [(1, 6)], count, generator, 256)[0]
    limit = module(x[image : image + 1]).numpy()
    return {"w": weight, "limit": limit.reshape(())}


@pytest.mark.usefixtures("larger_batches_round_otherwise")
@pytest.mark.parametrize(("seed", "image"), [(0, 2), (1, 0), (2, 1)])
def test_an_answer_that_rounding_turns_round_is_excused(seed, image):
    """One product of one seed lies on the threshold alone, and above or below it in a batch."""
    constants = signs_of_products(seed, image)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), *above("p", "limit", "y")]
    assert dynamic(nodes, constants, (1, 6))


@pytest.mark.usefixtures("larger_batches_round_otherwise")
def test_answers_that_rounding_turns_round_for_every_seed_are_not():
    """A product by one is the number itself alone, and a bit more in a batch."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Greater", ["p", "x"], ["b"]),
        helper.make_node("Cast", ["b"], ["y"], to=FLOAT),
    ]
    assert not dynamic(nodes, {"w": np.eye(6, dtype=np.float32)}, (1, 6))
