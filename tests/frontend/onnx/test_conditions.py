"""If: branches that constants or shapes choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.frontend.onnx.cases import X, floats, ints
from tests.frontend.onnx.models import agree, by_us, graph
from tvm_insta.compiler.onnx_model import network
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import import_torch
from tvm_insta.frontend.onnx import load, onnx_module, settle

FLOAT = TensorProto.FLOAT


def branch(nodes, output, constants=None):
    """A graph without inputs, as the branches of an If are."""
    info = helper.make_tensor_value_info(output, FLOAT, None)
    made = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    return helper.make_graph(nodes, output, [], [info], made)


def conv_or_relu(weight="w"):
    """A convolution with a weight of the graph around, or one of its own; else a Relu."""
    then = branch(
        [
            helper.make_node("Conv", ["x", weight], ["t1"], name="inner"),
            helper.make_node("Add", ["t1", "shift"], ["t"]),
        ],
        "t",
        {"shift": np.float32(0.5)} | ({} if weight == "w" else {weight: floats(4, 4, 1, 1)}),
    )
    other = branch([helper.make_node("Relu", ["x"], ["e"])], "e")
    return helper.make_node("If", ["c"], ["y"], name="which", then_branch=then, else_branch=other)


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("weight", ["w", "own"])
def test_a_constant_decides(condition, weight):
    constants = {"c": np.array(condition), "w": floats(4, 4, 1, 1)}
    model = graph([conv_or_relu(weight)], {"x": X}, constants)
    agree(model, {"x": X})
    module = onnx_module(load(model))
    expected = {"which__then.inner": "inner"} if condition else {}
    assert module.onnx_names == expected
    assert settle(module).dynamic


@pytest.mark.parametrize("size", [4, 5])
def test_a_shape_decides(size):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Equal", ["n", "size"], ["c"]),
        conv_or_relu(),
    ]
    constants = {"one": np.int64(1), "size": np.int64(size), "w": floats(4, 4, 1, 1)}
    model = graph(nodes, {"x": X}, constants, batch="N")
    agree(model, {"x": X})
    made = network(model)
    imported = import_torch(made.module, made.examples, max_batch=4, dynamic=True)
    assert [layer.name for layer in imported.layers] == ["which__then.inner"] * (size == 4)


def test_conditions_inside_conditions():
    inner = helper.make_node(
        "If",
        ["d"],
        ["q"],
        then_branch=branch([helper.make_node("Relu", ["x"], ["q1"])], "q1"),
        else_branch=branch([helper.make_node("Mul", ["x", "k"], ["q2"])], "q2"),
    )
    then = branch([inner, helper.make_node("Add", ["q", "k"], ["t"])], "t")
    other = branch([helper.make_node("Neg", ["x"], ["e"])], "e")
    nodes = [
        helper.make_node("Identity", ["yes"], ["c"]),
        helper.make_node("If", ["c"], ["z"], then_branch=then, else_branch=other),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    constants = {"yes": np.array(True), "d": np.array(False), "k": np.float32(-2)}
    agree(graph(nodes, {"x": X}, constants), {"x": X})


def test_a_branch_that_makes_a_shape():
    """Its result is known when the graph is traced, as that of any other computation on shapes."""
    then = branch([helper.make_node("Identity", ["flat"], ["t"])], "t")
    other = branch([helper.make_node("Identity", ["deep"], ["e"])], "e")
    for each, name in ((then, "t"), (other, "e")):
        each.output[0].CopyFrom(helper.make_tensor_value_info(name, TensorProto.INT64, None))
    nodes = [
        helper.make_node("If", ["c"], ["s"], then_branch=then, else_branch=other),
        helper.make_node("Reshape", ["x", "s"], ["y"]),
    ]
    constants = {"c": np.array(True), "flat": ints(0, -1), "deep": ints(0, 0, -1)}
    agree(graph(nodes, {"x": X}, constants), {"x": X})


def test_numbers_of_the_input_do_not_decide():
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        conv_or_relu(),
    ]
    model = graph(nodes, {"x": X}, {"zero": np.float32(0), "w": floats(4, 4, 1, 1)})
    with pytest.raises(ImportModelError, match=r"'which'.*computed from the input") as caught:
        by_us(model, {"x": X})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["name", "outputs", "missing", "reads"])
def test_branches_that_are_none(fault):
    model = graph([conv_or_relu()], {"x": X}, {"c": np.array(True), "w": floats(4, 4, 1, 1)})
    node = model.graph.node[0]
    (then,) = (each.g for each in node.attribute if each.name == "then_branch")
    if fault == "name":
        then.node[0].output[0] = "x"
    elif fault == "outputs":
        then.output.append(helper.make_tensor_value_info("t1", FLOAT, None))
    elif fault == "missing":
        del node.attribute[1]
    else:
        then.node[0].input[1] = "nothing"
    with pytest.raises(ImportModelError):
        load(model)


def test_a_copy_has_branches_of_its_own():
    import copy

    constants = {"c": np.array(True), "w": floats(4, 4, 1, 1)}
    module = onnx_module(load(graph([conv_or_relu()], {"x": X}, constants)))
    twin, x = copy.deepcopy(module), torch.from_numpy(X)
    with torch.no_grad():
        before = module(x)
        module.get_buffer("which__then.inner.weight").zero_()
        assert torch.equal(twin(x), before) and not torch.equal(module(x), before)
