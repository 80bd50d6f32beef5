"""Several inputs and outputs, from a file to both forms of an artefact."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import tvm_insta
from tests.frontend.onnx.cases import X, floats
from tests.frontend.onnx.models import by_runtime, graph
from tvm_insta import compile as compile_command
from tvm_insta import run as run_command
from tvm_insta import tune as tune_command
from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import import_torch
from tvm_insta.validate.__main__ import main as validate_main


def two_and_three():
    """Two inputs; an image, class scores and one number of each image as outputs."""
    rng = np.random.default_rng(3)
    signs = rng.choice(np.float32([-0.25, 0.25]), (32, 4, 3, 3))
    nodes = [
        helper.make_node("Add", ["left", "right"], ["s"]),
        helper.make_node("GreaterOrEqual", ["s", "zero"], ["g"]),
        helper.make_node("Where", ["g", "one", "minus"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"], name="body", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "h"], ["scores"], name="head", transB=1),
        helper.make_node("ReduceMean", ["left"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "small"], ["level"]),
    ]
    constants = {"w": signs, "h": floats(5, 32), "zero": np.float32(0), "one": np.float32(1)}
    constants |= {"minus": np.float32(-1), "small": np.float32(1e-4)}
    inputs = {"left": X, "right": floats(2, 4, 1, 1)}
    return graph(nodes, inputs, constants, ("map", "scores", "level"), batch="N"), inputs


def expect(found, expected):
    assert isinstance(found, tuple)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_several_inputs_and_outputs(runtime, tmp_path, capsys):
    model, inputs = two_and_three()
    path, folder = tmp_path / "net.onnx", tmp_path / "artefact"
    path.write_bytes(model.SerializeToString())
    assert compile_command.main([str(path), "-o", str(folder), "--runtime", runtime]) == 0
    module = tvm_insta.load(folder)
    manifest = module.manifest
    assert [each.name for each in manifest.inputs] == ["left", "right"]
    assert [each.name for each in manifest.outputs] == ["map", "scores", "level"]
    assert [list(each.shape[1:]) for each in manifest.outputs] == [[32, 7, 6], [5], []]
    assert any(layer.kind == "binary" for layer in manifest.layers)
    expect(module(*inputs.values()), by_runtime(model, inputs))
    if runtime == "c":
        header = (folder / "model.h").read_text("utf-8")
        numbers = dict(re.findall(r"#define MODEL_(OUTPUT\w*) (\d+)u?", header))
        assert numbers["OUTPUT_COUNT"] == "3" and numbers["OUTPUT_ELEMENTS"] == "1350"
        firsts = [numbers[f"OUTPUT{i}_FIRST"] for i in range(3)]
        assert firsts == ["0", "1344", "1349"]
    assert validate_main([str(folder), "--inputs", "3"]) == 0
    image = tmp_path / "image.png"
    for command, arguments in (
        (validate_main, [str(folder), "--images", str(image)]),
        (run_command.main, [str(folder), str(image)]),
    ):
        capsys.readouterr()
        assert command(arguments) == 2
        error = capsys.readouterr().err
        assert "2 inputs (left, right)" in error and error.count("\n") == 1


@pytest.mark.slow
def test_an_output_of_small_numbers_is_judged_by_its_own_size(tmp_path):
    """An error of the last output, far below the largest number of all, is a failure."""
    from tvm_insta.validate import validate

    model, inputs = two_and_three()
    artefact = tvm_insta.build_onnx(model, out_dir=tmp_path)
    from tvm_insta.compiler.onnx_model import network

    module, loaded = network(model).module, tvm_insta.load(tmp_path)

    class Wrong:
        manifest = loaded.manifest

        def __call__(self, *arrays):
            *others, level = loaded(*arrays)
            return (*others, level * np.float32(1.1))

        def trace(self, *arrays):
            return loaded.trace(*arrays)

    tensors = [torch.from_numpy(x) for x in inputs.values()]
    assert not validate(loaded, module, tensors).failures()
    assert validate(Wrong(), module, tensors).failures()
    assert artefact.manifest.outputs[2].name == "level"


def test_outputs_of_several_types_are_refused():
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("ArgMax", ["x"], ["z"], axis=1),
    ]
    kinds = [TensorProto.FLOAT, TensorProto.INT64]
    model = graph(nodes, {"x": X}, outputs=("y", "z"), out=kinds, batch="N")
    with pytest.raises(ImportModelError, match="float32, int64"):
        tvm_insta.build_onnx(model)


def test_outputs_of_a_module_get_names():
    class Two(torch.nn.Module):
        def forward(self, x):
            return {"a": x + 1, "b": (x.mean((2, 3)), x)}

    imported = import_torch(Two(), [torch.zeros(1, 3, 4, 5)], max_batch=3, dynamic=True)
    names = [(each.name, each.shape) for each in imported.outputs]
    assert names == [("output_1", (3, 4, 5)), ("output_2", (3,)), ("output_3", (3, 4, 5))]
    assert imported.mod["main"].ret_ty.shape.values[1] == 123


def test_tuning_takes_several_inputs(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    path.write_bytes(two_and_three()[0].SerializeToString())
    arguments = [str(path), "--target", "llvm", "--trials", "1", "--log-dir", str(tmp_path)]
    assert tune_command.main([*arguments, "--layer", "nothing*"]) == 2
    assert "nothing*" in capsys.readouterr().err
