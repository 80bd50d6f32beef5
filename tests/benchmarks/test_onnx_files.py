"""The benchmark of ONNX files: its table, refusals and turns. No test looks at a clock."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("onnxruntime")

from benchmarks import onnx_files
from tests.frontend.onnx.networks import qcdq


def test_the_table_has_medians_and_their_ratio():
    row = {"file": "a", "seconds": {"tvm_insta": [1e-6, 2e-6, 9e-6], "onnxruntime": [2e-5] * 3}}
    head = {"cpu": "cpu", "threads": 1, "form": "c", "rounds": 3, "load": [0.1, 0.2, 0.3]}
    assert (
        onnx_files.table([row], head).splitlines()[-1] == "| a | 2.0 (1.0) | 20.0 (20.0) | 10.0 |"
    )


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert onnx_files.main([str(tmp_path / "none.onnx")]) == 2
    assert "no file" in capsys.readouterr().err


@pytest.mark.slow
def test_both_engines_take_turns(tmp_path):
    path, result = tmp_path / "net.onnx", tmp_path / "result.json"
    path.write_bytes(qcdq()[0].SerializeToString())
    arguments = [str(path), "--target", "llvm", "--rounds", "2", "--json", str(result)]
    assert onnx_files.main(arguments) == 0
    (row,) = json.loads(result.read_text("utf-8"))["rows"]
    assert {name: len(values) for name, values in row["seconds"].items()} == {
        "tvm_insta": 2,
        "onnxruntime": 2,
    }
