"""Whole networks and the C example on ARM, under QEMU."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import tvm_insta
from tests.cross import small_network
from tests.cross.emulated import assert_like_here
from tests.cross.machines import A53, A72, ARM, ARMV7, GENERIC_ARM64
from tests.passes.networks import Halving
from tvm_insta import compile as compile_command
from tvm_insta import nn, run
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.runtime import cpu
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.preprocess import Preprocessing, normalise
from tvm_insta.validate import __main__ as validate_command

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.parametrize("machine", ARM, ids=lambda machine: machine.name)
def test_real_images_get_the_classes_of_pytorch_and_of_this_machine(machine, digits, compiled):
    machine.require()
    logits = assert_like_here(machine, digits, compiled)
    program, images = compiled(machine) / "runner", digits[1]
    for threads in (2, 3, 5):
        assert machine.run(program, images, (10,), threads=threads).tobytes() == logits.tobytes()


@pytest.mark.qemu
@pytest.mark.parametrize("library", ["model.a", "model.so"])
@pytest.mark.parametrize("machine", [A72, ARMV7], ids=lambda machine: machine.name)
def test_the_c_example_runs(machine, library, digits, compiled, tmp_path):
    machine.require()
    system = Path("/usr") / machine.gcc.removesuffix("-gcc")
    if library == "model.so" and not list(system.glob("lib/ld-*")):
        pytest.skip(f"the C library of {machine.name} is not in {system}")
    _, images, expected = digits
    folder = compiled(machine)
    program, batch = tmp_path / "plain_c", tmp_path / "batch.f32"
    batch.write_bytes(images[:3].tobytes())
    command = [machine.gcc, "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-I", folder]
    command += [EXAMPLES / "c" / "plain_c.c", folder / library, "-lm", "-pthread", "-o", program]
    command.append("-static" if library == "model.a" else f"-Wl,-rpath,{folder}")
    subprocess.run(command, check=True)
    run = [*machine.emulator, "-L", system, program, batch]
    text = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    for row in expected[:3]:
        assert f"class {row.argmax()}" in text, text


@pytest.mark.qemu
def test_images_for_a_board_are_written_here(compiled, tmp_path, capsys):
    """Preprocessing takes the manifest alone: the artefact need not run on this machine."""
    A72.require()
    if cpu.machine() == "aarch64":
        pytest.skip("this machine is an aarch64")
    text = json.loads((compiled(A72) / "model.json").read_text())
    text["preprocessing"] = nn.preprocessing("digits")
    text["classes"] = text["preprocessing"].pop("classes")
    (tmp_path / "model.json").write_text(json.dumps(manifests.sealed(text)))
    file, folder = tmp_path / "batch.f32", EXAMPLES / "digits" / "test" / "0"
    assert run.main([str(tmp_path), str(folder), "--dump-input", str(file)]) == 0
    images = len(list(folder.glob("*.png")))
    assert file.stat().st_size == images * 3 * 32 * 32 * 4
    assert "not run on this machine" in capsys.readouterr().out


@pytest.mark.qemu
def test_run_and_validate_on_the_emulated_board(digits, compiled, tmp_path, capsys):
    """The classes that PyTorch gives, and every bit judged, without the board."""
    A72.require()
    folder = tmp_path / "out"
    shutil.copytree(compiled(A72), folder)
    text = json.loads((folder / "model.json").read_text())
    text["preprocessing"] = nn.preprocessing("digits")
    text["classes"] = text["preprocessing"].pop("classes")
    text["source"] = {"model": "resnet20", "variant": "insta", "checkpoint": "digits"}
    (folder / "model.json").write_text(json.dumps(manifests.sealed(text)))
    for digit in ("1", "8"):
        (tmp_path / "images" / digit).mkdir(parents=True)
        for file in sorted((EXAMPLES / "digits" / "test" / digit).glob("*.png"))[:3]:
            shutil.copy(file, tmp_path / "images" / digit)
    device = ["--device", "emulated"]
    assert run.main([str(folder), str(tmp_path / "images"), *device, "--threads", "2"]) == 0
    assert "6 of 6" in capsys.readouterr().out
    assert validate_command.main([str(folder), "--inputs", "2", *device]) == 0
    assert "valid" in capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def vm_bundle(tmp_path_factory):
    """The bundle of the vm form for any aarch64, by the command line."""
    GENERIC_ARM64.require()
    folder = tmp_path_factory.mktemp("vm")
    argv = ["--checkpoint", "digits", "--target", GENERIC_ARM64.target]
    argv += ["--runtime", "vm", "--max-batch", "8"]
    assert (
        compile_command.main([*argv, "-o", str(folder / "out"), "--bundle", str(folder / "deploy")])
        == 0
    )
    return folder / "deploy"


@pytest.mark.slow
@pytest.mark.qemu
def test_vm_form_for_arm(vm_bundle):
    """Format and symbols."""
    header = (vm_bundle / "model.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and header[18] == 0xB7  # EM_AARCH64
    library = ElfFile(vm_bundle / "model.so")
    assert set(library.needed()) <= {"libc.so.6", "libm.so.6"}
    manifest = json.loads((vm_bundle / "model.json").read_text())
    assert manifest["machine"] == "aarch64" and "neon" in manifest["needs"]
    kernels = {f"__tvm_ffi_{kernel['symbol']}" for kernel in manifest["kernels"]}
    assert len(kernels) > 20
    # The byte code, and every kernel that it calls, is there; only the runtimes are left to find.
    assert {"__tvm_ffi__library_bin", *kernels} <= set(library.visible())
    assert not {name for name in library.undefined() if name.startswith("__tvm_ffi_")}


@pytest.mark.qemu
@pytest.mark.parametrize("machine", [A72, ARMV7], ids=lambda machine: machine.name)
def test_parallel_branches_and_their_shortcuts(machine, tmp_path):
    """One convolution for both branches; what they add is read in its epilogue."""
    machine.require()
    images = torch.randn(2, 32, 8, 6, generator=torch.Generator().manual_seed(2))
    for channels in (32, 24):  # whole vectors, and others
        network, x = Halving(channels).eval(), images[:, :channels].contiguous()
        folder = tmp_path / str(channels)
        tvm_insta.build(network, x, target=machine.target, runtime="c", out_dir=folder, check=False)
        got = machine.run(machine.link(folder), x.numpy(), (2 * channels, 4, 3))
        with torch.no_grad():
            # Values are below 8, and few operations round them, by 2**-22 each at most.
            np.testing.assert_allclose(got, network(x), rtol=0, atol=4e-6)


@pytest.mark.slow
@pytest.mark.qemu
def test_vm_form_runs_on_arm(vm_bundle, digits, compiled, tmp_path):
    """The bundle as on a board: TVM's own libraries for aarch64, make, the C program. Its logits
    have the bits of the plain-C form's, on the least and on the most able processor."""
    system = Path("/usr/aarch64-linux-gnu")
    if not (system / "lib" / "libstdc++.so.6").exists():
        pytest.skip(f"{system}/lib lacks libstdc++.so.6 (package libstdc++6-arm64-cross)")
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    missing = re.findall("Missing: (.*)", (vm_bundle / "README.md").read_text())
    if missing:
        pytest.skip(missing[0])
    _, images, _ = digits
    batch = tmp_path / "batch.f32"
    batch.write_bytes(images[:3].tobytes())
    make = ["make", "-C", vm_bundle, f"CC={GENERIC_ARM64.gcc}", "CFLAGS=-O2 -Wall -Wextra -Werror"]
    subprocess.run(make, check=True, capture_output=True)
    program = [vm_bundle / "classify", vm_bundle / "model.so", batch, "3x32x32"]
    plain = GENERIC_ARM64.run(GENERIC_ARM64.link(compiled(GENERIC_ARM64)), images[:3], (10,))
    for machine, threads in ((A53, 1), (GENERIC_ARM64, 3)):
        emulated = [*machine.emulator, "-L", system, *program, str(threads)]
        text = subprocess.run(emulated, check=True, capture_output=True, text=True).stdout
        logits = np.array([line.split()[5:] for line in text.splitlines()], np.float32)
        assert logits.tobytes() == plain.tobytes(), (machine.name, text)


@pytest.mark.qemu
@pytest.mark.parametrize("machine", [A72, ARMV7], ids=lambda machine: machine.name)
def test_pixels_give_the_bits_of_the_normalised_image(machine, tmp_path):
    """All values of a byte in every channel; one machine contracts operations, one does not."""
    machine.require()
    how = {"resize": [8, 8], "mode": "RGB", "mean": [0.485, 0.456, 0.406]}
    how["std"] = [0.229, 0.224, 0.225]
    pixels = np.arange(12 * 64).reshape(4, 3, 8, 8).astype(np.uint8)
    last = normalise(pixels.transpose(0, 2, 3, 1), Preprocessing.from_dict(how))
    given = {"uint8": pixels, "float32": np.ascontiguousarray(last.transpose(0, 3, 1, 2))}
    outputs = set()
    for kind, images in given.items():
        tvm_insta.build(
            small_network.make(),
            torch.zeros(1, 3, 8, 8),
            target=machine.target,
            runtime="c",
            out_dir=tmp_path / kind,
            input=kind,
            preprocessing=how,
        )
        outputs.add(machine.run(machine.link(tmp_path / kind), images, (10,)).tobytes())
    assert len(outputs) == 1
