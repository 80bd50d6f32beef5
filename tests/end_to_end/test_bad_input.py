"""Bad input: one sentence, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import tvm_insta
from tvm_insta import bench, nn, runtime
from tvm_insta import compile as compile_command
from tvm_insta import run as run_command
from tvm_insta.errors import ArtefactError, InputError, InstaError
from tvm_insta.runtime import manifest as manifests
from tvm_insta.validate.__main__ import main as validate_main


def refused(main, argv, capsys):
    """Run a command line that must be refused; returns its one sentence."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "error: " in line]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


COMPILE = {
    ("--model", "resnet19"): "resnet18",
    ("--model", "resnet20", "--variant", "instal"): "insta",
    ("--target", "llvm -device=arm"): "mtriple",
    ("--target", "llvm -mcpu=foo"): "foo",
    ("--target", "llvm -mcpu=icelake-sever"): "icelake-server",
    ("--target", "llvm -mtriple=aarch64-linux-gnu -mattr=+neo"): "neon",
    ("--target", "cudda"): "cuda",
    ("--max-batch", "0"): "at least 1",
    ("--name", "two words"): "two words",
    ("--checkpoint", "nothing.safetensors"): "nothing.safetensors",
    ("--factory", "nothing.py:make", "--input-shape", "3,8,8"): "nothing.py",
    ("--factory", "nothing.py:make"): "--input-shape",
}


@pytest.mark.parametrize("argv", COMPILE)
def test_compile(argv, capsys, tmp_path):
    output = tmp_path / "out"
    message = refused(compile_command.main, [*argv, "-o", str(output)], capsys)
    assert COMPILE[argv] in message
    assert not output.exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "r20.pt"
    nn.save_checkpoint(nn.create("resnet20", "baseline", num_classes=10), path)
    return path


def test_truncated_checkpoint(checkpoint, capsys, tmp_path):
    damaged = tmp_path / "r20.pt"
    damaged.write_bytes(checkpoint.read_bytes()[:5000])
    argv = ["--model", "resnet20", "--variant", "baseline", "--checkpoint", str(damaged)]
    assert str(damaged) in refused(compile_command.main, argv, capsys)


def test_checkpoint_of_another_architecture_names_the_keys(capsys, tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"layer.weight": torch.zeros(3)}, path)
    argv = ["--model", "resnet20", "--variant", "baseline", "--checkpoint", str(path)]
    message = refused(compile_command.main, argv, capsys)
    assert "missing" in message and "unexpected" in message and "layer.weight" in message


def test_output_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refused(compile_command.main, ["-o", str(tmp_path / "file")], capsys)
    assert "cannot write" in message


def test_factory_that_returns_no_module(capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def make():\n    return 3\n")
    argv = ["--factory", f"{tmp_path / 'mine.py'}:make", "--input-shape", "3,8,8"]
    assert "must return an nn.Module" in refused(compile_command.main, argv, capsys)


def test_unknown_option_of_build():
    with pytest.raises(InstaError, match="the options are target, runtime"):
        tvm_insta.build(torch.nn.ReLU(), torch.zeros(1, 3), colour="red")


SHAPES = {
    "rank": np.zeros((3, 32, 32), np.float32),
    "size": np.zeros((1, 3, 31, 32), np.float32),
    "batch too large": np.zeros((9, 3, 32, 32), np.float32),
    "empty batch": np.zeros((0, 3, 32, 32), np.float32),
    "dtype": np.zeros((1, 3, 32, 32), np.float64),
    "no array": "image.png",
}


@pytest.mark.parametrize("form", ["vm", "c"])
@pytest.mark.parametrize("case", SHAPES)
def test_wrong_inputs_at_run_time(digits, form, case):
    module = runtime.load(digits / form)
    with pytest.raises(InputError):
        module(SHAPES[case])


@pytest.fixture
def copy(digits, tmp_path):
    return shutil.copytree(digits / "c", tmp_path / "artefact")


def damaged(copy, change):
    path = copy / "model.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(manifests.sealed(data)))


def test_library_that_does_not_match_its_manifest(copy, capsys):
    with (copy / "model.so").open("ab") as stream:
        stream.write(b"x")
    assert "model.so" in refused(run_command.main, [str(copy), "x.png"], capsys)


def test_library_with_one_altered_byte(copy):
    data = bytearray((copy / "model.so").read_bytes())
    data[-1] ^= 1
    (copy / "model.so").write_bytes(data)
    with pytest.raises(ArtefactError, match="altered"):
        runtime.load(copy)


def test_truncated_manifest(copy, capsys):
    text = (copy / "model.json").read_text()
    (copy / "model.json").write_text(text[: len(text) // 2])
    assert "JSON" in refused(bench.main, [str(copy)], capsys)


def test_artefact_for_another_machine(copy, capsys):
    damaged(copy, lambda data: data.update(machine="aarch64"))
    assert "aarch64" in refused(bench.main, [str(copy)], capsys)


def test_artefact_for_another_processor(copy, capsys):
    damaged(copy, lambda data: data.update(needs=["avx1024"]))
    assert "avx1024" in refused(bench.main, [str(copy)], capsys)


def test_validate_refuses_other_parameters(copy, capsys):
    damaged(copy, lambda data: data["source"].update(parameters_sha256="0" * 64))
    assert "other parameters" in refused(validate_main, [str(copy), "--inputs", "1"], capsys)


def test_missing_image(digits, capsys):
    message = refused(run_command.main, [str(digits / "vm"), "nothing.png"], capsys)
    assert "nothing.png" in message


def test_missing_artefact(capsys):
    assert "nowhere" in refused(run_command.main, ["nowhere", "x.png"], capsys)


@pytest.mark.parametrize("argv", [["--threads", "0"], ["--repeat", "0"], ["--batch", "99"]])
def test_bench_counts(digits, argv, capsys):
    refused(bench.main, [str(digits / "vm"), *argv], capsys)


LATE = {
    ("--target", "cuda -arch=sm_90", "--runtime", "c"): "plain-C form is for CPUs",
    ("--name", "two words"): "two words",
}


@pytest.mark.parametrize("argv", LATE)
def test_what_code_generation_refuses_is_refused_first(argv, capsys, monkeypatch, tmp_path):
    def exported(*_args, **_options):
        raise AssertionError("the model was exported before the refusal")

    monkeypatch.setattr("tvm_insta.compiler.driver.import_torch", exported)
    message = refused(compile_command.main, [*argv, "-o", str(tmp_path / "out")], capsys)
    assert LATE[argv] in message
