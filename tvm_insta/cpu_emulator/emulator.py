"""QEMU's user emulators: which program, and with which `-cpu`."""

from __future__ import annotations

import functools
import shutil
import subprocess

EMULATORS = {
    "aarch64": "qemu-aarch64",
    "arm": "qemu-arm",
    "riscv64": "qemu-riscv64",
}
"""The emulator's program by the architecture of a target."""


def find(arch: str, mcpu: str | None) -> tuple[str, ...] | None:
    """The command that executes a program for a CPU; None where no emulator is installed.

    Args:
        arch: a key of `EMULATORS`; None comes back for others.
        mcpu: LLVM's name of the CPU. QEMU takes one that it does not know for "max", which has
            every feature that QEMU can emulate.
    """
    path = shutil.which(EMULATORS.get(arch, ""))
    if path is None:
        return None
    return path, "-cpu", mcpu if mcpu and mcpu in _known(path) else "max"


@functools.cache
def _known(path: str) -> frozenset[str]:
    """The names of CPUs that an emulator lists."""
    done = subprocess.run([path, "-cpu", "help"], capture_output=True, text=True, check=False)
    return frozenset(word for line in done.stdout.splitlines() for word in line.split())
