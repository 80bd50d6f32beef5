"""The machines that cross-compiled artefacts run on: QEMU's user emulation with a real -cpu."""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

RUNNER = Path(__file__).with_name("runner.c")


@dataclass(frozen=True)
class Machine:
    """A target to compile for, and how its programs run here."""

    name: str
    target: str
    gcc: str
    emulator: tuple[str, ...] = ()

    def require(self):
        """Skip the test where the compiler or the emulator is missing."""
        for tool in (self.gcc, *self.emulator[:1]):
            if shutil.which(tool) is None:
                pytest.skip(f"{tool} is not installed: {self.name} cannot be tried here")

    def link(self, folder: Path) -> Path:
        """Link the artefact in ``folder`` with the runner into a static program."""
        program = folder / "runner"
        strict = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
        command = [self.gcc, *strict, "-I", folder, RUNNER, folder / "model.a", "-lm", "-pthread"]
        subprocess.run([*command, "-o", program], check=True)
        return program

    def try_run(self, program: Path, images, shape, dtype, threads=1, trace=None):
        """Run images ``[N, ...]``; returns the finished process and the path of the output.

        ``trace`` is a file for what the kernels write, see runner.c.
        """
        raw, out = program.with_name("in.raw"), program.with_name("out.raw")
        raw.write_bytes(images.tobytes())
        out.unlink(missing_ok=True)
        sizes = [images[:1].nbytes, math.prod(shape) * np.dtype(dtype).itemsize]
        arguments = [raw, out, str(len(images)), *map(str, sizes), str(threads)]
        if trace is not None:
            arguments.append(trace)
        process = subprocess.run(
            [*self.emulator, program, *arguments], check=False, capture_output=True, text=True
        )
        return process, out

    def run(self, program: Path, images, shape, dtype="float32", threads=1, trace=None):
        """Run images ``[N, ...]``; returns outputs ``[N, *shape]``."""
        process, out = self.try_run(program, images, shape, dtype, threads, trace)
        assert process.returncode == 0, f"{self.name}: {process.returncode} {process.stderr}"
        return np.fromfile(out, dtype).reshape(len(images), *shape)


def arm64(cpu, target=None):
    """A 64-bit Arm core by its name."""
    spelt = target or f"llvm -mtriple=aarch64-linux-gnu -mcpu={cpu}"
    return Machine(cpu, spelt, "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", cpu))


GENERIC_ARM64 = Machine(
    "aarch64", "llvm -mtriple=aarch64", "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", "max")
)
A53 = arm64("cortex-a53")
A72 = arm64("cortex-a72", "rpi4")
A76 = arm64("cortex-a76", "pixel")
ARMV7 = Machine("armv7", "armv7", "arm-linux-gnueabihf-gcc", ("qemu-arm", "-cpu", "cortex-a9"))
NATIVE = Machine("native", "native", "gcc")
BASELINE = Machine("x86-64", "llvm -mtriple=x86_64-linux-gnu -mcpu=x86-64", "gcc")
HASWELL = Machine("avx2", "avx2", "gcc")

X86 = (NATIVE, BASELINE, HASWELL)
ARM = (GENERIC_ARM64, A53, A72, A76, ARMV7)
