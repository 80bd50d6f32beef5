"""CUDA: every kernel becomes device code where nvcc is installed.

What it computes, on the emulated device, is tested in tests/cuda_emulator.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import tvm
from tvm import tirx

from tests.cross import small_network
from tvm_insta import bench, nn
from tvm_insta import compile as command
from tvm_insta.codegen import cuda_device, nvcc_compile
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.codegen.program import extract
from tvm_insta.codegen.relax_vm import build_executable
from tvm_insta.cuda_emulator import EmulatorError, fatbin
from tvm_insta.frontend import import_torch
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.target import parse, toolchain

H100 = "cuda -arch=sm_90"
EM_CUDA = 190


def require_nvcc():
    if toolchain.nvcc() is None:
        pytest.skip("nvcc is not installed: no kernel can be compiled to device code")


def device_binary(library, folder):
    """The one device binary (an ELF file) that a library embeds, cut out from its header on."""
    data = library.read_bytes()
    starts = [found.start() for found in re.finditer(rb"\x7fELF", data)]
    at = [i for i in starts if int.from_bytes(data[i + 18 : i + 20], "little") == EM_CUDA]
    assert len(at) == 1, f"{len(at)} device binaries"
    path = folder / "device.cubin"
    path.write_bytes(data[at[0] :])
    return ElfFile(path)


def runs_on_the_device(function):
    """Whether every loop nest of a scheduled function is spread over blocks of threads."""
    body = function.body.block.body
    nests = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    return all(
        isinstance(nest, tirx.For) and nest.kind == tirx.ForKind.THREAD_BINDING for nest in nests
    )


@pytest.mark.slow
@pytest.mark.cuda
@pytest.mark.parametrize("model", nn.MODELS)
def test_every_kernel_becomes_device_code(model, tmp_path):
    require_nvcc()
    network = nn.create(model, "insta_plus")
    target = parse(H100)
    example = torch.zeros(1, 3, 32, 32)  # the kernels are those of larger images
    imported = import_torch(network, [example], max_batch=4, dynamic=True)
    compiled = run_pipeline(imported, Context(target))
    called = {call.symbol for call in extract(compiled.mod).calls}
    assert len(called) > 20
    assert [name for name in called if not runs_on_the_device(compiled.mod[name])] == []

    executable = build_executable(compiled.mod, target)
    library = tmp_path / "model.so"
    executable.export_library(str(library))
    entries = set(device_binary(library, tmp_path).visible())
    assert {f"{name}_kernel" for name in called} <= entries
    assert b"__global__" not in library.read_bytes()  # no source for a driver to compile

    (module,) = cuda_device.device_modules(executable.mod)
    parts = re.split(r"(?=__global__ void)", module.inspect_source())
    counting = {
        name for name in called for part in parts if f" {name}_kernel" in part and "__popc(" in part
    }
    binary = {name for name in called if "bitserial" in name}
    assert counting == binary and len(binary) >= 5

    source = module.inspect_source()
    for arch in ("sm_80", "sm_120"):
        code = nvcc_compile.compile_device_code(source, arch, cuda_device.find_nvcc())
        assert {f"{name}_kernel" for name in called} <= {kernel.name for kernel in code.kernels}
        slow = [k for k in code.kernels if k.stack_bytes or k.spill_bytes]
        assert slow == [], "registers and arrays in the memory of the device"
        assert f".target {arch}" in fatbin.ptx_of(code.image)  # for later cards


def test_what_ptxas_says_is_read():
    said = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_kernel' for 'sm_90'
ptxas info    : Function properties for a_kernel
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compiling entry function 'b' for 'sm_90'
ptxas info    : Used 8 registers, used 0 barriers
"""
    assert nvcc_compile.resources(said) == [
        nvcc_compile.KernelResources("a_kernel", "sm_90", 40, 16, 20, 1024),
        nvcc_compile.KernelResources("b", "sm_90", 8, 0, 0, 0),
    ]


def test_a_fat_binary_without_text_is_refused():
    for image in (b"", b"\x7fELF", fatbin._HEADER.pack(fatbin.MAGIC, 1, 16, 0)):
        with pytest.raises(EmulatorError):
            fatbin.ptx_of(image)
    compressed = fatbin._ENTRY.pack(1, 0x101, 64, 8, 20).ljust(64, b"\0") + bytes(8)
    head = fatbin._HEADER.pack(fatbin.MAGIC, 1, 16, len(compressed))
    with pytest.raises(EmulatorError, match="compressed"):
        fatbin.ptx_of(head + compressed)


@pytest.mark.cuda
def test_command_line_embeds_a_binary_that_the_loader_refuses_here(tmp_path, capsys):
    require_nvcc()
    folder = tmp_path / "out"
    assert command.main(["--target", "h100", *small_network.arguments(folder)]) == 0
    assert device_binary(folder / "model.so", tmp_path).visible()
    capsys.readouterr()
    assert bench.main([str(folder)]) == 2
    assert "the artefact is for CUDA" in one_error(capsys)


@pytest.mark.cuda
def test_arithmetic_is_not_fast(tmp_path, monkeypatch):
    """TVM asks nvcc for approximate division and tanh, unless it is told otherwise."""
    require_nvcc()
    log = spy(tmp_path, f'exec "{toolchain.nvcc()}" "$@"')
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert command.main(["--target", "h100", *small_network.arguments(tmp_path / "out")]) == 0
    words = log.read_text().split()
    assert "arch=compute_90,code=[sm_90,compute_90]" in words
    assert {"-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true"} <= set(words)
    assert not [word for word in words if "fast" in word or "ftz=true" in word]


@pytest.mark.cuda
def test_what_nvcc_refuses_is_told_without_the_source(tmp_path, monkeypatch, capsys):
    require_nvcc()
    spy(tmp_path, "echo \"nvcc fatal   : Unsupported gpu architecture 'compute_70'\"; exit 1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    argv = ["--target", "cuda -arch=sm_70", *small_network.arguments(tmp_path / "out")]
    assert command.main(argv) == 2
    message = one_error(capsys)
    assert "could not compile the kernels for sm_70" in message
    assert "Unsupported gpu architecture 'compute_70'" in message
    assert "__global__" not in message
    assert not (tmp_path / "out").exists()


def spy(folder, then):
    """A toolkit in `folder`/cuda whose nvcc writes down its arguments; returns the file."""
    log, program = folder / "arguments", folder / "cuda" / "bin" / "nvcc"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "$@" >> "{log}"\n{then}\n')
    program.chmod(0o755)
    return log


def one_error(capsys):
    """The one error message on stderr, to its end."""
    parts = capsys.readouterr().err.split("error: ")
    assert len(parts) == 2, parts
    return parts[1]


def test_libraries_of_the_toolkit_are_found_beside_nvcc(tmp_path):
    library = Path(tvm.__file__).parent / "lib" / "libtvm_runtime_cuda.so"
    if not library.is_file():
        pytest.skip("this apache-tvm was built without CUDA")
    compiler = tmp_path / "bin" / "nvcc"
    assert cuda_device.toolkit_libraries(library, compiler) == []
    (name,) = [name for name in ElfFile(library).needed() if name.startswith("libcudart")]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / name).touch()
    assert cuda_device.toolkit_libraries(library, compiler) == [tmp_path / "lib" / name]


def test_without_nvcc(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cuda_device, "nvcc", lambda: None)
    argv = ["--target", H100, *small_network.arguments(tmp_path / "out")]
    assert command.main(argv) == 2
    assert "no nvcc was found" in one_error(capsys)
    assert not (tmp_path / "out").exists()


def test_the_plain_c_form_is_for_cpus(tmp_path, capsys):
    argv = ["--target", H100, "--runtime", "c", *small_network.arguments(tmp_path / "out")]
    assert command.main(argv) == 2
    assert "plain-C form is for CPUs" in one_error(capsys)
    assert not (tmp_path / "out").exists()
