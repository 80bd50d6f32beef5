"""Whole networks and the C example on ARM, under QEMU."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import tvm_insta
from tests.cross import small_network
from tests.cross.machines import A53, A72, A76, ARMV7, GENERIC_ARM64, NATIVE
from tests.passes.networks import Halving
from tvm_insta import nn, run, runtime
from tvm_insta.codegen.elf import ElfFile
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import cpu
from tvm_insta.runtime.preprocess import Preprocessing, load_images, normalise
from tvm_insta.target import parse

EXAMPLES = Path(__file__).parents[2] / "examples"

LOGITS = 1e-4
"""Of the largest logit. Machines contract multiplications with additions or not, and sum vectors of
other widths; no bit of these images lies so close to its threshold that it flips."""

A53_FEATURES = cpu.parse_cpuinfo("Features: fp asimd evtstrm aes pmull sha1 sha2 crc32", "aarch64")
"""What Linux says of a Cortex-A53."""


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


@pytest.fixture(scope="module")
def here(digits, compiled):
    """The logits of this machine's own plain-C form."""
    return runtime.load(compiled(NATIVE))(digits[1])


@pytest.mark.qemu
@pytest.mark.parametrize(
    "machine", [GENERIC_ARM64, A72, A76, ARMV7], ids=lambda machine: machine.name
)
def test_real_images_get_the_classes_of_pytorch_and_of_this_machine(
    machine, digits, compiled, here
):
    machine.require()
    _, images, expected = digits
    program = machine.link(compiled(machine))
    logits = machine.run(program, images, (10,))
    for threads in (2, 3, 5):
        assert machine.run(program, images, (10,), threads=threads).tobytes() == logits.tobytes()
    for other in (expected, here):
        assert (logits.argmax(1) == other.argmax(1)).all()
        assert np.abs(logits - other).max() <= LOGITS * np.abs(other).max()


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
@pytest.mark.parametrize("machine", [A53, A72], ids=lambda machine: machine.name)
def test_dotprod_build_is_refused_by_a_cpu_without_it(machine, digits, compiled):
    """A message from model_init, not SIGILL."""
    A76.require()
    _, images, _ = digits
    process, out = machine.try_run(A76.link(compiled(A76)), images[:1], (10,), "float32")
    assert process.returncode == 5, process  # MODEL_ERROR_CPU
    said = re.fullmatch(r"this processor lacks a feature .* \((\S+)\)\n", process.stderr)
    assert said and said[1] in set(parse(A76.target).needs) - A53_FEATURES, process.stderr
    assert not out.exists()


@pytest.mark.qemu
def test_without_the_check_it_would_die(compiled, tmp_path):
    """So the kernels do use what QEMU's processor lacks, and the check is what refuses them."""
    A76.require()
    source = tmp_path / "main.c"
    source.write_text(
        '#include "model.h"\n'
        "static float in[MODEL_INPUT_ELEMENTS], out[MODEL_OUTPUT_ELEMENTS];\n"
        "int main(void) {\n"
        "  model_options options = {sizeof options, MODEL_SKIP_CPU_CHECK};\n"
        "  return model_init(&options) ? 1 : model_run(in, out, 1);\n"
        "}\n"
    )
    folder, program = compiled(A76), tmp_path / "unchecked"
    command = [A76.gcc, "-static", "-I", folder, source, folder / "model.a", "-lm", "-o", program]
    subprocess.run(command, check=True)
    assert subprocess.run([*A76.emulator, program], check=False).returncode == 0
    died = subprocess.run([*A72.emulator, program], check=False, capture_output=True)
    assert died.returncode == -signal.SIGILL, died


@pytest.mark.qemu
def test_images_for_a_board_are_written_here(compiled, tmp_path, capsys):
    """Preprocessing takes the manifest alone: the artefact need not run on this machine."""
    A72.require()
    if cpu.machine() == "aarch64":
        pytest.skip("this machine is an aarch64")
    text = json.loads((compiled(A72) / "model.json").read_text())
    text["preprocessing"] = nn.preprocessing("digits")
    text["classes"] = text["preprocessing"].pop("classes")
    (tmp_path / "model.json").write_text(json.dumps(text))
    file, folder = tmp_path / "batch.f32", EXAMPLES / "digits" / "test" / "0"
    assert run.main([str(tmp_path), str(folder), "--dump-input", str(file)]) == 0
    images = len(list(folder.glob("*.png")))
    assert file.stat().st_size == images * 3 * 32 * 32 * 4
    assert "not run on this machine" in capsys.readouterr().out


@pytest.mark.qemu
def test_dotprod_build_is_refused_by_the_loader_of_a_cpu_without_it(compiled, monkeypatch):
    """What the manifest says is enough: no library is opened."""
    A76.require()
    monkeypatch.setattr(cpu, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, "cpu_features", lambda: A53_FEATURES)
    with pytest.raises(ArtefactError, match=r"needs the CPU features .*dotprod.*lacks"):
        runtime.load(compiled(A76))


@pytest.mark.qemu
def test_the_loader_refuses_an_artefact_for_arm(compiled):
    A76.require()
    if cpu.machine() == "aarch64":
        pytest.skip("this machine is an aarch64")
    with pytest.raises(ArtefactError, match="for aarch64"):
        runtime.load(compiled(A76))


@pytest.mark.qemu
def test_vm_form_for_arm(digits, tmp_path):
    """Only format and symbols are checked: to run it takes TVM's runtime library for aarch64."""
    GENERIC_ARM64.require()
    network, images, _ = digits
    tvm_insta.build(
        network, torch.from_numpy(images[:1]), target=GENERIC_ARM64.target, out_dir=tmp_path
    )
    header = (tmp_path / "model.so").read_bytes()[:20]
    assert header[:4] == b"\x7fELF" and header[18] == 0xB7  # EM_AARCH64
    library = ElfFile(tmp_path / "model.so")
    assert set(library.needed()) <= {"libc.so.6", "libm.so.6"}
    manifest = json.loads((tmp_path / "model.json").read_text())
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
        tvm_insta.build(network, x, target=machine.target, runtime="c", out_dir=folder)
        got = machine.run(machine.link(folder), x.numpy(), (2 * channels, 4, 3))
        with torch.no_grad():
            # Values are below 8, and few operations round them, by 2**-22 each at most.
            np.testing.assert_allclose(got, network(x), rtol=0, atol=4e-6)


@pytest.mark.qemu
@pytest.mark.slow
def test_resnet18(tmp_path):
    A72.require()
    network = nn.create("resnet18", "insta")
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    tvm_insta.build(network, image, target=A72.target, runtime="c", out_dir=tmp_path)
    logits = A72.run(A72.link(tmp_path), image.numpy(), (1000,))
    here = tvm_insta.build(network, image, runtime="c")(image.numpy())
    assert logits.argmax() == here.argmax()
    assert np.abs(logits - here).max() <= LOGITS * np.abs(here).max()


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
