"""A build is refused by a processor that lacks what it needs, instead of dying on it."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from tests.cross.machines import A53, A72, A76
from tvm_insta import runtime
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import cpu
from tvm_insta.target import parse

A53_FEATURES = cpu.parse_cpuinfo("Features: fp asimd evtstrm aes pmull sha1 sha2 crc32", "aarch64")
"""What Linux says of a Cortex-A53."""


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
