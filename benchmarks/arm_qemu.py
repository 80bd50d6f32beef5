"""Instructions that a cross-compiled program executes, counted by QEMU's user emulation.

A count hardly varies: 4e-5 from run to run, in what the C library does when it starts. Programs
take the number of calls as their argument, so that the difference of two runs is the calls alone.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_insta.cpu_emulator.emulator import EMULATORS
from tvm_insta.errors import ToolchainError
from tvm_insta.target import InstaTarget, parse, toolchain
from tvm_insta.tuning.qemu import count_plugin


@dataclass(frozen=True)
class Core:
    """A core to compile for and to emulate.

    Attributes:
        name: LLVM's and QEMU's name of it.
        target: target string.
    """

    name: str
    target: str

    @property
    def parsed(self) -> InstaTarget:
        """The completed target."""
        return parse(self.target)


CORES = (
    Core("cortex-a53", "cortex-a53"),
    Core("cortex-a55", "cortex-a55"),
    Core("cortex-a72", "cortex-a72"),
    Core("cortex-a76", "cortex-a76"),
    Core("cortex-a9", "armv7"),
)


def emulator(core: Core) -> str:
    """The path of QEMU's emulator for a core.

    Raises:
        ToolchainError: it is not installed.
    """
    name = EMULATORS[core.parsed.arch]
    path = shutil.which(name)
    if path is None:
        raise ToolchainError(f"there is no {name}: install the package qemu-user.")
    return path


@functools.cache
def plugin(program: str) -> Path:
    """The plugin, compiled for the version of the interface that an emulator has.

    Raises:
        ToolchainError: no C compiler, or no version loads.
    """
    return count_plugin(program, Path(tempfile.mkdtemp(prefix="tvm_insta-icount-")))


def count_program(
    core: Core, program: Path, folder: Path, options: Sequence[str], *arguments: str
) -> int:
    """Instructions of one run of a program.

    Args:
        core: the core to emulate; where QEMU lacks it, the one with every feature that it has.
        program: an executable of the core's architecture.
        folder: for temporary files.
        options: further options of QEMU.
        arguments: of the program.

    Raises:
        ToolchainError: the program or the emulator failed.
    """
    command = emulator(core)
    out = folder / "instructions"
    out.unlink(missing_ok=True)
    cpu = core.name if _knows(command, core.name) else "max"
    head = [command, "-cpu", cpu, "-plugin", f"{plugin(command)},out={out}", *options]
    done = subprocess.run(
        [*head, str(program), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or not out.exists():
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ToolchainError(f"{program.name} failed on {core.name}: {said[-1]}")
    return int(out.read_text())


def count_calls(core: Core, program: Path, calls: int) -> float:
    """Instructions of one call of a static program, which takes the number of calls.

    It is what a run with `calls` more calls takes more than a run with one.

    Raises:
        ToolchainError: the program or the emulator failed.
    """
    more, one = (count_program(core, program, program.parent, (), str(n)) for n in (1 + calls, 1))
    return (more - one) / calls


@functools.cache
def _knows(program: str, cpu: str) -> bool:
    listed = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False)
    return cpu in listed.stdout.split()


def link_static(core: Core, sources: list[Path], out: Path, *flags: str) -> None:
    """Link C files and objects into a program that needs no library of the emulated system.

    Raises:
        ToolchainError: no cross compiler, or it failed.
    """
    linker = toolchain.find_linker(core.parsed)
    linker.link_program(sources, out, "-O2", *flags, "-lm", static=True)


def kernel_main(symbol: str, parameters: list[Any], scratch: tuple[int, ...]) -> str:
    """A C program that calls a kernel as often as its argument says, on words that differ.

    Args:
        symbol: C name of the kernel.
        parameters: (bytes, whether it holds border classes) of each argument and output.
        scratch: bytes of each scratch parameter.
    """
    sizes = [*parameters, *((size, True) for size in scratch)]
    names = [f"m{i}" for i in range(len(sizes))]
    declared = "".join(
        f"static _Alignas(64) unsigned char {name}[{size}];\n"
        for name, (size, _) in zip(names, sizes, strict=True)
    )
    filled = "".join(
        f"  fill({name}, sizeof {name});\n"
        for name, (_, zero) in zip(names, sizes, strict=True)
        if not zero
    )
    pointers = ", ".join(["void *"] * len(names))
    return f"""#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
int32_t {symbol}({pointers});
{declared}
static void fill(unsigned char *p, size_t n) {{
  uint32_t state = 1;
  for (size_t i = 0; i < n; i++) {{
    state = state * 1664525u + 1013904223u;
    p[i] = (unsigned char)(state >> 24);
  }}
}}
int main(int argc, char **argv) {{
{filled}  for (int i = argc > 1 ? atoi(argv[1]) : 1; i > 0; i--)
    if ({symbol}({", ".join(names)})) return 1;
  return 0;
}}
"""
