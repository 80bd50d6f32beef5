"""The peak rates of this machine's core, measured by `peak.c` in registers only."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tvm_insta.errors import ToolchainError

_SOURCE = Path(__file__).with_name("peak.c")

# CPU feature -> the compiler option that lets peak.c use it.
_X86_OPTIONS = {
    "avx512f": "-mavx512f",
    "avx512vpopcntdq": "-mavx512vpopcntdq",
    "fma": "-mfma",
    "popcnt": "-mpopcnt",
}


@dataclass(frozen=True)
class Peak:
    """Peak rates of one core.

    Attributes:
        binary_gmacs: 1e9 binary multiply-adds per second (xor, popcount, add).
        float_gmacs: 1e9 float32 multiply-adds per second.
        word_bits: width of the popcount instruction that was used, 512 or 64.
        compiler: the C compiler.
    """

    binary_gmacs: float
    float_gmacs: float
    word_bits: int
    compiler: str


def compile_peak(features: frozenset[str], folder: Path) -> tuple[list[str], str]:
    """Compile `peak.c` for a CPU with LLVM's feature names `features`.

    Returns:
        The command that runs it, and the compiler.

    Raises:
        ToolchainError: there is no C compiler, or it fails.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    compiler = compiler or shutil.which("clang")
    if not compiler or not shutil.which(compiler):
        raise ToolchainError(
            f"the peak is measured by a C program, but no C compiler was found "
            f"(looked for {compiler or 'cc, gcc, clang'}); install one or set CC"
        )
    options = [option for feature, option in _X86_OPTIONS.items() if feature in features]
    program = folder / "peak"
    command = [compiler, "-O2", *options, str(_SOURCE), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        first = (done.stderr.strip() or "no message").splitlines()[0]
        raise ToolchainError(f"{compiler} could not compile {_SOURCE.name}: {first}")
    return [str(program)], compiler


def measure_peak(features: frozenset[str]) -> Peak:
    """Compile and run `peak.c`; it takes the best of its own repeats."""
    with tempfile.TemporaryDirectory() as folder:
        command, compiler = compile_peak(features, Path(folder))
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    binary, floats, bits = done.stdout.split()
    return Peak(float(binary), float(floats), int(bits), compiler)
