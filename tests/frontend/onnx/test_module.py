"""The module as a whole: names, batches, shapes, functions, types and files beside the model."""

from __future__ import annotations

import copy
import functools
import inspect
import keyword
import os

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.frontend.onnx.cases import X, floats, ints
from tests.frontend.onnx.models import QONNX, agree, by_runtime, by_us, graph
from tests.frontend.onnx.networks import NETWORKS, larq, qcdq, qonnx, straight_through
from tvm_insta.compiler import onnx_model
from tvm_insta.errors import ImportModelError, ModelError
from tvm_insta.frontend import import_torch, trace_and_fold
from tvm_insta.frontend.onnx import load, onnx_module, settle
from tvm_insta.frontend.onnx.names import Identifiers

FLOAT = TensorProto.FLOAT


def relu(shape, batch=None):
    x = np.zeros(shape, np.float32)
    return graph([helper.make_node("Relu", ["x"], ["y"])], {"x": x}, batch=batch)


# -- names ---------------------------------------------------------------------------------------


def test_layers_keep_their_names():
    module = onnx_module(load(straight_through()[0]))
    assert module.onnx_names == {
        "stem__Conv": "/stem/Conv",
        "conv__Conv": "/conv/Conv",
        "fc__Gemm": "/fc/Gemm",
    }
    assert {"stem__Conv.weight", "fc__Gemm.weight"} <= set(module.state_dict())
    imported = import_torch(module, [torch.zeros(1, 3, 5, 5)], max_batch=4, dynamic=True)
    assert tuple(layer.name for layer in imported.layers) == tuple(module.onnx_names)
    assert imported.input_names == ("x",)


def test_inputs_are_named_arguments():
    module = onnx_module(load(larq()[0]))
    assert list(inspect.signature(module.forward).parameters) == ["image"]
    assert "net/conv2d/Conv2D" in repr(module)
    x = torch.from_numpy(larq()[1]["image"])
    with torch.no_grad():
        assert torch.equal(module(image=x)[0], module(x)[0])
    with pytest.raises(TypeError):
        module(x, x)


def test_forward_may_be_wrapped_for_a_while():
    """As importers do to watch it: the wrapper has the same arguments, and goes away again."""
    module = onnx_module(load(larq()[0]))
    forward = module.forward

    @functools.wraps(forward)
    def watched(*args, **kwargs):
        return forward(*args, **kwargs)

    module.forward = watched
    x = torch.from_numpy(larq()[1]["image"])
    program = torch.export.export(module, (x,))
    del module.forward
    assert [each.name for each in program.graph.nodes if each.op == "placeholder"][-1] == "image"
    assert list(inspect.signature(module.forward).parameters) == ["image"]


ODD_NAMES = ["forward", "class", "0", "/a.b/c", "training", "taken", "_2", "a_2", "a"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=12) | st.sampled_from(ODD_NAMES)))
def test_names_become_distinct_identifiers(names):
    identifier = Identifiers(["taken"])
    found = [identifier(name, "node") for name in names]
    assert len({"taken", *found}) == len(found) + 1
    for name in found:
        assert name.isidentifier() and not keyword.iskeyword(name)
        assert not hasattr(torch.nn.Module(), name)


def test_nodes_without_names():
    """Several layers without a name, and with the same, are still told apart."""
    w = floats(4, 4, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["b"], name="forward"),
        helper.make_node("Conv", ["b", "w"], ["c"], name="forward"),
        helper.make_node("Conv", ["c", "w"], ["y"], name="1.2"),
    ]
    model = graph(nodes, {"x": X}, {"w": w})
    found = by_us(model, {"x": X})[0]
    for i, node in enumerate(nodes):  # ONNX Runtime wants them to differ
        node.name = f"n{i}"
    expected = by_runtime(graph(nodes, {"x": X}, {"w": w}), {"x": X})[0]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    names = onnx_module(load(model)).onnx_names
    assert list(names.values()) == ["a", "forward", "forward", "1.2"]


def test_a_copy_is_independent():
    module = onnx_module(load(qcdq()[0]))
    twin = copy.deepcopy(module)
    x = torch.from_numpy(qcdq()[1]["x"])
    with torch.no_grad():
        before = module(x)
        module.get_buffer("head.weight").zero_()
        assert torch.equal(twin(x), before)
        assert not torch.equal(module(x), before)


# -- whole networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [qcdq, straight_through, larq])
def test_networks_agree_with_onnx_runtime(make):
    for seed in range(3):
        agree(*make(seed=seed), tolerance=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_export_with_a_dynamic_batch(name):
    model, inputs = NETWORKS[name]()
    module = onnx_module(load(model))
    batch = settle(module)
    assert batch.dynamic and all(shape[0] == 1 for shape in batch.shapes)
    examples = [torch.zeros(shape) for shape in batch.shapes]
    traced = trace_and_fold(module, examples, max_batch=8, dynamic=True)
    tensors = [torch.from_numpy(np.repeat(x[:1], 5, 0)) for x in inputs.values()]
    with torch.no_grad():
        many, one = traced(*tensors), module(*[x[:1] for x in tensors])
    for found, expected in zip(_list(many), _list(one), strict=True):
        assert found.shape[0] == 5
        torch.testing.assert_close(found, expected.expand_as(found), atol=1e-4, rtol=1e-4)


def _list(results):
    return results if isinstance(results, (tuple, list)) else [results]


def test_constants_are_left_out_of_the_traced_graph():
    """Weights reach the compiler as numbers, not as the nodes that make them."""
    module = onnx_module(load(straight_through()[0]))
    traced = trace_and_fold(module, [torch.zeros(1, 3, 5, 5)], max_batch=8, dynamic=True)
    names = [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]
    assert sum("sign" in name for name in names) == 1  # of the activations
    assert not any("abs" in name or "mean" in name for name in names)


# -- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_fixed_batch_becomes_dynamic(batch):
    """Reshape([batch, -1]) is read as the batch at hand."""
    model, inputs = qonnx(batch=batch)
    module = onnx_module(load(model))
    assert settle(module).dynamic
    x = torch.from_numpy(inputs["x"])
    more = torch.cat([x, x.flip(0) / 2])
    with torch.no_grad():
        together = module(more)
        apart = torch.cat([module(image[None]) for image in more])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_images_that_are_mixed_keep_their_batch():
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    module = onnx_module(load(graph(nodes, {"x": X[:1]})))
    found = settle(module)
    assert not found.dynamic and found.shapes == ((1, *X.shape[1:]),)
    assert "gives other results with another" in found.note
    with pytest.raises(ImportModelError, match="fixes the batch at 2"):
        settle(onnx_module(load(graph(nodes, {"x": X}))))


def test_a_reshape_that_hides_the_batch():
    """[1, C, H, W] -> [C, H * W] is no batch of anything."""
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    model = graph([node], {"x": X[:1]}, {"s": ints(4, 42)})
    with pytest.raises(ImportModelError, match="the batch must come first"):
        settle(onnx_module(load(model)))


def test_outputs_that_are_no_numbers():
    """Logarithms of negative numbers are nan, alone and in a batch: the batch may vary."""
    model = graph([helper.make_node("Log", ["x"], ["y"])], {"x": X[:1]})
    assert settle(onnx_module(load(model))).dynamic


def test_open_dimensions_must_be_given():
    x = np.zeros((1, 3, 5, 5), np.float32)
    model = graph([helper.make_node("Relu", ["x"], ["y"])], {"x": x}, batch="N")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    module = onnx_module(load(model))
    with pytest.raises(ImportModelError, match="--input-shape"):
        settle(module)
    assert settle(module, {"x": (1, 3, 7, 5)}).shapes == ((1, 3, 7, 5),)
    for wrong in ((1, 3, 7, 6), (1, 3, 7), (1, 3, -1, 5)):
        with pytest.raises(ImportModelError):
            settle(module, {"x": wrong})
    with pytest.raises(ImportModelError, match="'z'"):
        settle(module, {"x": (1, 3, 7, 5), "z": (1, 2)})


def test_shapes_are_computed_with_a_symbol():
    """Sizes of a Resize, of a Slice and of a Reshape from the shape of the input."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Cast", ["hw"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["f", "half"], ["h"]),
        helper.make_node("Ceil", ["h"], ["g"]),
        helper.make_node("Cast", ["g"], ["n"], to=TensorProto.INT64),
        helper.make_node("Slice", ["s", "zero", "two"], ["nc"]),
        helper.make_node("Concat", ["nc", "n"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["r"], mode="nearest"),
        helper.make_node("Gather", ["s", "i"], ["b"], axis=0),
        helper.make_node("Unsqueeze", ["b", "zero"], ["bu"]),
        helper.make_node("Equal", ["bu", "minus"], ["e"]),
        helper.make_node("Where", ["e", "one", "bu"], ["w"]),
        helper.make_node("Concat", ["w", "minus"], ["t"], axis=0),
        helper.make_node("Reshape", ["r", "t"], ["y"]),
    ]
    constants = {"two": ints(2), "four": ints(4), "zero": ints(0), "i": np.int64(0)}
    constants |= {"half": np.float32(0.5), "minus": ints(-1), "one": ints(1)}
    model = graph(nodes, {"x": X}, constants, batch="N")
    agree(model, {"x": X})
    module = onnx_module(load(model))
    traced = trace_and_fold(module, [torch.zeros(1, *X.shape[1:])], max_batch=8, dynamic=True)
    many = np.concatenate([X, X[:1]])
    assert (traced(torch.from_numpy(many)).numpy() == by_runtime(model, {"x": many})[0]).all()


def test_several_inputs_and_outputs():
    nodes = [
        helper.make_node("Add", ["a.1", "b"], ["s"]),
        helper.make_node("Mul", ["s", "b"], ["p"]),
        helper.make_node("Identity", ["s"], ["y"]),
        helper.make_node("Relu", ["p"], ["z"]),
    ]
    inputs = {"a.1": X, "b": floats(2, 4, 1, 1)}
    model = graph(nodes, inputs, outputs=("y", "z"), batch="N")
    agree(model, inputs)
    module = onnx_module(load(model))
    shapes = settle(module).shapes
    imported = import_torch(module, [torch.zeros(s) for s in shapes], max_batch=4, dynamic=True)
    assert imported.input_names == ("a_1", "b")


# -- what files may contain besides --------------------------------------------------------------


def test_local_functions_are_written_out():
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    inner = [
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("LeakyRelu", ["r"], ["b"]),
    ]
    kind = onnx.AttributeProto.FLOAT
    inner[1].attribute.append(onnx.AttributeProto(name="alpha", type=kind, ref_attr_name="slope"))
    outer = [helper.make_node("Inner", ["a"], ["t"], domain="own", slope=0.5)] * 1
    outer.append(helper.make_node("Inner", ["t"], ["b"], domain="own", slope=0.2))
    functions = [
        helper.make_function("own", "Inner", ["a"], ["b"], inner, imports, ["slope"]),
        helper.make_function("own", "Outer", ["a"], ["b"], outer, imports),
    ]
    model = graph(
        [helper.make_node("Outer", ["x"], ["y"], domain="own")], {"x": X}, domains={"own": 1}
    )
    model.functions.extend(functions)
    agree(model, {"x": X})


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_are_computed_in_float32(kind):
    x, w = X.astype(kind), floats(6, 5).astype(kind)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=FLOAT),
    ]
    model = graph(nodes, {"x": x}, {"w": w})
    module = onnx_module(load(model))
    assert module.notes and "float32" in module.notes[0]
    with torch.no_grad():
        found = module(torch.from_numpy(x.astype(np.float32))).numpy()
    expected = by_runtime(model, {"x": x})[0]
    tolerance = (
        1e-2 if kind is np.float16 else 1e-5
    )  # float16 has 11 bits, and 6 products are summed
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_weights_that_are_also_inputs():
    """Exporters before IR version 4 list them so; they are no inputs."""
    model = graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], {"x": X}, {"w": floats(5, 4, 3, 3)}
    )
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [5, 4, 3, 3]))
    assert [each.name for each in load(model).inputs] == ["x"]
    agree(model, {"x": X})


def external(tmp_path, location="w.bin", offset="0", length="720", name="model.onnx", **fields):
    """A model whose weight lies in another file."""
    w = floats(5, 4, 3, 3)
    if not (tmp_path / "w.bin").exists():
        (tmp_path / "w.bin").write_bytes(w.tobytes())
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(w.shape)
    for key, value in {"location": location, "offset": offset, "length": length, **fields}.items():
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    model = graph([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": X}, {"w": tensor})
    (tmp_path / name).write_bytes(model.SerializeToString())
    return tmp_path / name


def test_external_data_beside_the_model(tmp_path):
    path = external(tmp_path)
    w = np.frombuffer((tmp_path / "w.bin").read_bytes(), np.float32).reshape(5, 4, 3, 3)
    assert (load(path).initialisers["w"].array == w).all()
    assert (load(external(tmp_path, length=None)).initialisers["w"].array == w).all()
    with pytest.raises(ImportModelError, match="without a folder"):
        load(path.read_bytes())


def test_tensors_beside_the_model_belong_to_it(tmp_path):
    """A manifest names the file by a digest, which other weights change."""
    path = external(tmp_path)
    description = onnx_model.network(path).description
    assert onnx_model.network_again(description).label == "model"
    (tmp_path / "w.bin").write_bytes(floats(5, 4, 3, 3).tobytes())
    with pytest.raises(ModelError, match="another file"):
        onnx_model.network_again(description)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"location": "../w.bin"}, "own folder"),
        ({"location": "deep/../../w.bin"}, "own folder"),
        ({"location": "/etc/passwd"}, "own folder"),
        ({"location": "C:\\w.bin"}, "own folder"),
        ({"location": "w.bin\0x"}, "own folder"),
        ({"location": "link.bin"}, "own folder|link"),
        ({"location": "near.bin"}, "link|cannot be read"),
        ({"location": "hard.bin"}, "link"),
        ({"location": "folder"}, "link|cannot be read"),
        ({"location": "folder/link.bin"}, "own folder"),
        ({"location": "pipe"}, "link|regular"),
        ({"location": "nothing.bin"}, "cannot be read"),
        ({"location": None}, "does not say in which"),
        ({"offset": "1000000"}, "the file 720"),
        ({"offset": "-4"}, "the file 720"),
        ({"length": "1000000000000"}, "the file 720"),
        ({"length": "716"}, "has 720 bytes"),
        ({"offset": "abc"}, "no number"),
        ({"secret": "1"}, "does not say"),
    ],
    ids=str,
)
def test_external_data_elsewhere_is_refused(tmp_path, fields, message):
    outside = tmp_path / "outside"
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    outside.mkdir()
    path = external(inside, **fields)
    data = (inside / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(data)
    (outside / "secret.bin").write_bytes(data)
    (inside / "link.bin").symlink_to(outside / "secret.bin")
    (inside / "folder" / "link.bin").symlink_to(outside / "secret.bin")
    (inside / "near.bin").symlink_to("w.bin")
    os.link(outside / "secret.bin", inside / "hard.bin")
    os.mkfifo(inside / "pipe")
    with pytest.raises(ImportModelError, match=message):
        load(path)


def test_external_data_of_an_absurd_size(tmp_path):
    model = onnx.load(external(tmp_path), load_external_data=False)
    model.graph.initializer[0].dims[0] = 2**40
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ImportModelError, match="dimension of 1099511627776"):
        load(tmp_path / "model.onnx")


def test_a_graph_of_qonnx_alone_needs_no_standard_version():
    node = helper.make_node("BipolarQuant", ["x", "s"], ["y"], domain=QONNX)
    model = graph([node], {"x": X}, {"s": np.float32(2)})
    del model.opset_import[:]
    assert (by_us(model, {"x": X})[0] == np.where(X >= 0, 2, -2)).all()
