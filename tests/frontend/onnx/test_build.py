"""ONNX files through the whole compiler: artefacts agree with ONNX Runtime, and are validated."""

from __future__ import annotations

import functools
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import tvm_insta
from tests.frontend.onnx.cases import X
from tests.frontend.onnx.models import by_runtime, graph
from tests.frontend.onnx.networks import larq, qcdq, qonnx, straight_through
from tests.frontend.onnx.test_write import Blocks
from tvm_insta import compile as compile_command
from tvm_insta.compiler import onnx_model
from tvm_insta.errors import ImportModelError, InstaError, ModelError
from tvm_insta.frontend.onnx.write import export
from tvm_insta.validate.__main__ import main as validate_main


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["vm", "c"])
def test_artefact_agrees_with_onnx_runtime(runtime):
    model, inputs = qcdq()
    artefact = tvm_insta.build_onnx(model, "llvm", runtime=runtime, max_batch=4)
    expected = by_runtime(model, inputs)[0]
    np.testing.assert_allclose(artefact(inputs["x"]), expected, atol=1e-4 * np.abs(expected).max())
    assert [layer.name for layer in artefact.report.layers] == ["stem", "body", "head"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [qonnx, functools.partial(larq, outputs=("z",)), straight_through],
    ids=["qonnx", "larq", "straight_through"],
)
def test_validate_rebuilds_from_the_file(make, tmp_path, capsys):
    """`compile FILE.onnx`, then `validate DIR`: the manifest says which file, and its digest."""
    path, folder = tmp_path / "net.onnx", tmp_path / "artefact"
    path.write_bytes(make()[0].SerializeToString())
    runtime = ["--runtime", "c"] if make is straight_through else ["--max-batch", "4"]
    assert compile_command.main([str(path), "-o", str(folder), *runtime]) == 0
    source = json.loads((folder / "model.json").read_text())["source"]
    assert source["onnx"] == str(path) and len(source["sha256"]) == 64
    assert validate_main([str(folder), "--inputs", "4"]) == 0
    assert "valid" in capsys.readouterr().out
    path.write_bytes(make(seed=1)[0].SerializeToString())
    assert validate_main([str(folder), "--inputs", "4"]) == 2
    assert "another file" in capsys.readouterr().err
    path.unlink()
    assert validate_main([str(folder), "--inputs", "4"]) == 2


@pytest.mark.slow
def test_round_trip_gives_the_same_bits():
    """A network written, read and compiled: the layers and results of PyTorch's own way."""
    module, example = Blocks().eval(), torch.zeros(1, 3, 8, 8)
    direct = tvm_insta.build(module, example, runtime="c")
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    for qonnx_form in (False, True):
        written = tvm_insta.build_onnx(export(module, [example], qonnx=qonnx_form), runtime="c")
        kinds = [[(layer.kind, layer.macs) for layer in a.report.layers] for a in (direct, written)]
        assert kinds[0] == kinds[1]
        assert sum(kind == "binary" for kind, _ in kinds[0]) == 2
        for image in x[:, None]:
            scale = np.abs(direct(image)).max()
            np.testing.assert_allclose(written(image), direct(image), atol=1e-5 * scale)


@pytest.mark.slow
def test_a_fixed_batch_is_compiled_as_one():
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["x", "m"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["y"]),
    ]
    model = graph(nodes, {"x": X[:1]})
    with pytest.raises(ImportModelError, match="max_batch 4"):
        tvm_insta.build_onnx(model, max_batch=4)
    artefact = tvm_insta.build_onnx(model)
    assert artefact.manifest.max_batch == 1
    np.testing.assert_allclose(artefact(X[:1]), by_runtime(model, {"x": X[:1]})[0], atol=1e-6)


def test_a_reason_names_no_line_of_the_compiler():
    weight = np.where(X[:1, :1, :3, :3] >= 0, 1, -1).astype(np.float32).repeat(X.shape[1], 1)
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Conv", ["s", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    artefact = tvm_insta.build_onnx(graph(nodes, {"x": X[:1]}, {"w": weight}))
    (layer,) = artefact.report.layers
    assert layer.reason.startswith("its input is real-valued (the result of sigmoid)")


def test_types_of_inputs():
    model = graph([helper.make_node("Relu", ["x"], ["y"])], {"x": X.astype(np.int32)}, out=6)
    with pytest.raises(ImportModelError, match="'x' holds int32"):
        onnx_model.network(model)


def test_the_shape_of_the_command_line(tmp_path):
    model = graph([helper.make_node("Relu", ["x"], ["y"])], {"x": X}, batch="N")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    made = onnx_model.network_of_arguments(str(path), "4,9,6")
    assert made.examples[0].shape == (1, 4, 9, 6)
    again = onnx_model.network_again(made.description)
    assert again.examples[0].shape == (1, 4, 9, 6)
    for text in ("4,x,6", "4,9,7", "", "0,9,6"):
        with pytest.raises(InstaError):
            onnx_model.network_of_arguments(str(path), text)


def test_a_file_is_read_and_checked_once(tmp_path, monkeypatch):
    """With a shape of the command line, too; and two inputs are refused after that one reading."""
    path, two = tmp_path / "m.onnx", tmp_path / "two.onnx"
    path.write_bytes(graph([helper.make_node("Relu", ["x"], ["y"])], {"x": X}).SerializeToString())
    both = graph([helper.make_node("Add", ["x", "z"], ["y"])], {"x": X, "z": X})
    two.write_bytes(both.SerializeToString())
    read = []
    check = onnx.checker.check_model
    monkeypatch.setattr(onnx.checker, "check_model", lambda m, *a: read.append(m) or check(m, *a))
    onnx_model.network_of_arguments(str(path), "4,7,6")
    assert len(read) == 1
    with pytest.raises(ImportModelError, match="has 2 inputs, but --input-shape is for one"):
        onnx_model.network_of_arguments(str(two), "4,7,6")
    assert len(read) == 2


def test_a_model_without_a_file_is_not_built_again():
    made = onnx_model.network(qcdq()[0])
    with pytest.raises(ModelError, match="without a file"):
        onnx_model.network_again(made.description)


def test_without_the_package_it_says_which(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportModelError, match="pip install"):
        onnx_model.network("model.onnx")
