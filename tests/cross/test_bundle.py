"""`compile --bundle`: a folder that is complete, and whose programs run on the target."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.cross import small_network
from tests.cross.machines import A72, ARMV7, GENERIC_ARM64, arm64
from tvm_insta import compile as command
from tvm_insta.codegen import bundle
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import manifest as manifests
from tvm_insta.target import parse

needs_zig = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None,
    reason='the ziglang wheel is not installed (pip install "tvm-insta[cross]")',
)
PLAIN_FILES = {
    "Makefile",
    "README.md",
    "batch_file.h",
    "classify",
    "main.c",
    "model.a",
    "model.h",
    "model.json",
    "model.so",
}


def compile_bundle(folder, target, form, *more):
    """Run the command line; returns the bundle's folder."""
    argv = ["--target", target, "--runtime", form, *small_network.arguments(folder / "out")]
    assert command.main([*argv, "--bundle", str(folder / "bundle"), *more]) == 0
    return folder / "bundle"


def batch(folder, count=2):
    """Write some images; returns (file, PyTorch's logits)."""
    images = torch.randn(count, *small_network.SHAPE, generator=torch.Generator().manual_seed(1))
    (folder / "batch.f32").write_bytes(images.numpy().tobytes())
    with torch.no_grad():
        return folder / "batch.f32", small_network.make()(images).numpy()


def check(text, expected):
    """The program's output against logits; sums of 27 and 1024 products in another order."""
    rows = [line.split() for line in text.splitlines()]
    logits = np.array([row[5:] for row in rows], np.float32)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@needs_zig
@pytest.mark.qemu
def test_with_pip_alone(tmp_path, monkeypatch):
    """Without any C compiler on the PATH zig links, and the C program runs under QEMU."""
    (tmp_path / "bin").mkdir()
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path / "bin"))
        without.delenv("CC", raising=False)
        folder = compile_bundle(tmp_path, "llvm -mtriple=aarch64", "c")
    assert {path.name for path in folder.iterdir()} == PLAIN_FILES
    assert len((folder / "README.md").read_text().splitlines()) <= 10
    assert ElfFile(folder / "classify").needed() == []
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    file, expected = batch(tmp_path)
    done = subprocess.run(
        ["qemu-aarch64", "-cpu", "cortex-a53", folder / "classify", file],
        check=True,
        capture_output=True,
        text=True,
    )
    check(done.stdout, expected)


@pytest.mark.qemu
@pytest.mark.parametrize("machine", [A72, ARMV7], ids=lambda machine: machine.name)
def test_make_on_the_board(machine, tmp_path):
    """The Makefile is all that it takes; here with the cross compiler in the board's place."""
    machine.require()
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = compile_bundle(tmp_path, machine.target, "c", "--name", "net")
    (folder / "classify").unlink()
    make = ["make", "-C", folder, f"CC={machine.gcc}", "LDFLAGS=-static"]
    flags = "CFLAGS=-O2 -Wall -Wextra -Werror"
    subprocess.run([*make, flags], check=True, capture_output=True)
    file, expected = batch(tmp_path)
    program = [*machine.emulator, folder / "classify", file]
    check(subprocess.run(program, check=True, capture_output=True, text=True).stdout, expected)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("preset", "core"),
    [("rpi3", "cortex-a53"), ("cortex-a55", "cortex-a76"), ("neoverse-n1", "neoverse-n1")],
)
def test_the_other_presets(preset, core, tmp_path):
    """The program of the bundle, on the core or, where QEMU lacks it, on one with its features."""
    machine = arm64(core)
    machine.require()
    folder = compile_bundle(tmp_path, preset, "c")
    file, expected = batch(tmp_path)
    program = [*machine.emulator, folder / "classify", file]
    check(subprocess.run(program, check=True, capture_output=True, text=True).stdout, expected)


def test_vm_form_of_this_machine(tmp_path):
    """The libraries of the installed TVM are copied, and the program finds them in its folder."""
    if shutil.which("make") is None or shutil.which("gcc") is None:
        pytest.skip("make or gcc is not installed")
    folder = compile_bundle(tmp_path, "llvm", "vm")
    assert "-DMAX_BATCH=64 " in (folder / "Makefile").read_text()
    assert {p.name for p in (folder / "lib").iterdir()} == {"libtvm_runtime.so", "libtvm_ffi.so"}
    moved = folder.rename(tmp_path / "elsewhere")
    subprocess.run(["make", "-C", moved, "CC=gcc"], check=True, capture_output=True)
    file, expected = batch(tmp_path)
    shape = "x".join(map(str, small_network.SHAPE))
    without = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    done = subprocess.run(
        [moved / "classify", moved / "model.so", file, shape],
        check=True,
        capture_output=True,
        text=True,
        env=without,
    )
    check(done.stdout, expected)


def test_the_readme_of_a_network_that_takes_bytes(tmp_path):
    folder = compile_bundle(tmp_path, "llvm", "vm")
    manifest, target = manifests.read(folder / manifests.FILE_NAME), parse("llvm")
    image = dataclasses.replace(manifest.inputs[0], dtype="uint8")
    taking_bytes = dataclasses.replace(manifest, inputs=(image,))
    texts = [bundle._readme(each, target, False, []) for each in (manifest, taking_bytes)]
    assert "model.so batch.raw 3x8x8`" in texts[0] and "3x8x8 float32" in texts[0]
    assert "model.so batch.raw uint8:3x8x8`" in texts[1] and "3x8x8 uint8" in texts[1]


def fake_pip(monkeypatch, error):
    """Let pip fail with `error`, and every other command run."""
    real = subprocess.run

    def answer(argv, **options):
        if argv[:3] != [sys.executable, "-m", "pip"]:
            return real(argv, **options)
        return subprocess.CompletedProcess(argv, 1, "", f"ERROR: {error}\n")

    monkeypatch.setattr(bundle.subprocess, "run", answer)


@needs_zig
def test_what_is_missing_is_said(tmp_path, monkeypatch, capsys):
    fake_pip(monkeypatch, "no network")
    folder = compile_bundle(tmp_path, GENERIC_ARM64.target, "vm")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bundle: ")]
    assert len(said) == 1 and "no network" in said[0] and "--runtime c" in said[0]
    assert said[0].removeprefix("bundle: ") in (folder / "README.md").read_text()
    assert not list((folder / "lib").iterdir())
    assert (folder / "include" / "tvm" / "ffi" / "c_api.h").is_file()
    # Nobody publishes TVM for 32-bit Arm; and a bundle is written over an older one.
    assert compile_bundle(tmp_path, "armv7", "vm") == folder
    assert "not published for arm" in (folder / "README.md").read_text()


def test_no_bundle_for_cuda(tmp_path):
    with pytest.raises(ArtefactError, match="a bundle is for a CPU"):
        bundle.write_bundle(tmp_path, tmp_path / "bundle", parse("h100"))


@pytest.mark.parametrize("name", ["README.md", "Makefile", "main.c", "lib", "include"])
def test_files_of_others_are_not_replaced(name, tmp_path, capsys):
    """A project's own folder, as with `--bundle .`: nothing is compiled, nothing is touched."""
    folder = tmp_path / "project"
    mine = folder / name if "." in name or name == "Makefile" else folder / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine\n")
    argv = ["--target", "llvm", *small_network.arguments(tmp_path / "out")]
    assert command.main([*argv, "--bundle", str(folder)]) == 2
    assert f"project holds {name}, which no bundle wrote" in capsys.readouterr().err
    assert mine.read_text() == "mine\n"
    assert [path for path in folder.rglob("*") if path.is_file()] == [mine]
    assert not (tmp_path / "out").exists()


def test_beside_the_artefact_and_twice(tmp_path):
    """A bundle may lie in the artefact's folder and be written again."""
    argv = ["--target", "llvm", "--runtime", "c", *small_network.arguments(tmp_path / "one")]
    for _ in range(2):
        assert command.main([*argv, "--bundle", str(tmp_path / "one")]) == 0
    assert {path.name for path in (tmp_path / "one").iterdir()} == PLAIN_FILES


@pytest.mark.parametrize("form", ["c", "vm"])
def test_make_that_fails_leaves_the_program(form, tmp_path):
    """The compiler of another machine, as where `make` is typed on the wrong one."""
    if shutil.which("make") is None or shutil.which("gcc") is None:
        pytest.skip("make or gcc is not installed")
    folder = compile_bundle(tmp_path, "llvm", form)
    make = ["make", "-B", "-C", folder, "CC=gcc"]
    subprocess.run(make, check=True, capture_output=True)
    before = (folder / "classify").read_bytes()
    failed = subprocess.run([*make, "LDFLAGS=-lno_such_library"], check=False, capture_output=True)
    assert failed.returncode != 0
    assert (folder / "classify").read_bytes() == before


def test_the_program_is_linked_with_threads(tmp_path):
    """The archive starts threads, which glibc before 2.34 keeps in a library of their own."""
    folder = compile_bundle(tmp_path, "llvm", "c")
    assert " -pthread " in (folder / "Makefile").read_text()
