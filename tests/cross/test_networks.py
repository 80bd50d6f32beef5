"""Whole networks and the C example on ARM, under QEMU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import tvm_insta
from tests.cross.machines import A53, A72, A76, ARMV7, DOTPROD, GENERIC_ARM64
from tvm_insta import nn, runtime
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime.preprocess import load_images

EXAMPLES = Path(__file__).parents[2] / "examples"

LOGITS = 1e-4
"""Of the largest logit. Machines contract multiplications with additions or not, and sum vectors of
other widths; no bit of these images lies so close to its threshold that it flips."""


@pytest.fixture(scope="module")
def digits():
    """Network, 20 real images and PyTorch's logits."""
    network = nn.create("resnet20", "insta", checkpoint="digits")
    how = nn.preprocessing("digits")
    how.pop("classes")
    images = load_images(sorted((EXAMPLES / "digits" / "test").glob("*/*.png"))[::18], how)
    with torch.no_grad():
        return network, images, network(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def compiled(digits, tmp_path_factory):
    """Compile the network for a machine, once; returns the folder."""
    network, images, _ = digits
    done: dict[str, Path] = {}

    def compile_for(machine):
        if machine.target not in done:
            folder = tmp_path_factory.mktemp(machine.name)
            tvm_insta.build(
                network,
                torch.from_numpy(images[:1]),
                target=machine.target,
                runtime="c",
                out_dir=folder,
            )
            done[machine.target] = folder
        return done[machine.target]

    return compile_for


@pytest.mark.qemu
@pytest.mark.parametrize(
    "machine", [GENERIC_ARM64, A72, A76, ARMV7], ids=lambda machine: machine.name
)
def test_real_images_get_pytorchs_classes(machine, digits, compiled):
    machine.require()
    _, images, expected = digits
    logits = machine.run(machine.link(compiled(machine)), images, (10,))
    assert (logits.argmax(1) == expected.argmax(1)).all()
    assert np.abs(logits - expected).max() <= LOGITS * np.abs(expected).max()


@pytest.mark.qemu
def test_the_c_example_runs(digits, compiled, tmp_path):
    A72.require()
    _, images, expected = digits
    folder = compiled(A72)
    program, batch = tmp_path / "plain_c", tmp_path / "batch.f32"
    batch.write_bytes(images[:3].tobytes())
    strict = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
    source = EXAMPLES / "c" / "plain_c.c"
    command = [A72.gcc, *strict, "-I", folder, source, folder / "model.a", "-lm", "-o", program]
    subprocess.run(command, check=True)
    text = subprocess.run(
        [*A72.emulator, program, batch], check=True, capture_output=True, text=True
    ).stdout
    for row in expected[:3]:
        assert f"class {row.argmax()}" in text, text


@pytest.mark.qemu
def test_dotprod_build_is_refused_by_a_cpu_without_it(digits, compiled):
    """A message from model_init, not SIGILL."""
    DOTPROD.require()
    _, images, _ = digits
    program = DOTPROD.link(compiled(DOTPROD))
    process, _ = A53.try_run(program, images[:1], (10,), "float32")
    assert process.returncode == 5, process  # MODEL_ERROR_CPU
    assert "dotprod" in process.stderr


@pytest.mark.qemu
def test_the_loader_refuses_an_artefact_for_arm(compiled):
    A76.require()
    with pytest.raises(ArtefactError, match="for aarch64"):
        runtime.load(compiled(A76))


@pytest.mark.qemu
def test_vm_form_for_arm(digits, tmp_path):
    """Only its format is checked: to run it takes TVM's runtime library for aarch64."""
    GENERIC_ARM64.require()
    network, images, _ = digits
    tvm_insta.build(
        network, torch.from_numpy(images[:1]), target=GENERIC_ARM64.target, out_dir=tmp_path
    )
    header = (tmp_path / "model.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and header[18] == 0xB7  # EM_AARCH64
    assert ElfFile(tmp_path / "model.so").needed()
    manifest = json.loads((tmp_path / "model.json").read_text())
    assert manifest["machine"] == "aarch64" and "neon" in manifest["needs"]


@pytest.mark.qemu
@pytest.mark.slow
def test_resnet18(tmp_path):
    A72.require()
    network = nn.create("resnet18", "insta")
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    tvm_insta.build(network, image, target=A72.target, runtime="c", out_dir=tmp_path)
    logits = A72.run(A72.link(tmp_path), image.numpy(), (1000,))
    here = tvm_insta.build(network, image)(image.numpy())
    assert logits.argmax() == here.argmax()
    assert np.abs(logits - here).max() <= LOGITS * np.abs(here).max()
