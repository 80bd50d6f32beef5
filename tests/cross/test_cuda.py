"""CUDA: every kernel becomes device code where nvcc is installed. There is no card to run it on."""

from __future__ import annotations

import pytest
import torch

from tvm_insta import bench, nn, toolchain
from tvm_insta import compile as command
from tvm_insta.codegen.cuda_device import device_modules
from tvm_insta.codegen.relax_vm import build_executable
from tvm_insta.frontend import import_torch
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.target import parse

H100 = "cuda -arch=sm_90"


def require_nvcc():
    if toolchain.nvcc() is None:
        pytest.skip("nvcc is not installed: no kernel can be compiled to device code")


@pytest.mark.cuda
@pytest.mark.parametrize("model", nn.MODELS)
def test_every_kernel_becomes_device_code(model):
    require_nvcc()
    network = nn.create(model, "insta_plus")
    target = parse(H100)
    example = torch.zeros(1, 3, 32, 32)  # the kernels are those of larger images
    imported = import_torch(network, [example], max_batch=4, dynamic=True)
    compiled = run_pipeline(imported, target)
    executable = build_executable(compiled.mod, target)
    modules = device_modules(executable.mod)
    source = "".join(module.inspect_source() for module in modules)
    kernels = [record.function for record in compiled.schedules]
    assert len(kernels) > 20
    for kernel in kernels:
        assert f" {kernel}_kernel" in source, kernel
    assert source.count("__popc(") >= sum("bitserial" in kernel for kernel in kernels) >= 5


@pytest.mark.cuda
def test_command_line_embeds_a_binary_that_the_loader_refuses_here(tmp_path, capsys):
    require_nvcc()
    assert command.main(["--target", "h100", "-o", str(tmp_path)]) == 0
    library = (tmp_path / "model.so").read_bytes()
    assert b".nv.info" in library  # a section of compiled device code, not of source text
    capsys.readouterr()
    assert bench.main([str(tmp_path)]) == 2
    assert "CUDA" in capsys.readouterr().err


def test_without_nvcc(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tvm_insta.codegen.cuda_device.nvcc", lambda: None)
    assert command.main(["--target", H100, "-o", str(tmp_path / "out")]) == 2
    assert "no nvcc was found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_plain_c_form_is_for_cpus(tmp_path, capsys):
    argv = ["--target", H100, "--runtime", "c", "-o", str(tmp_path / "out")]
    assert command.main(argv) == 2
    assert "plain-C form is for CPUs" in capsys.readouterr().err
