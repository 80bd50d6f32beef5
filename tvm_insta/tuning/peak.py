"""The peak rates of this machine's core, measured by `peak.c` in registers only."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tvm_insta.errors import ToolchainError
from tvm_insta.runtime import cpu

_SOURCE = Path(__file__).with_name("peak.c")

# What the code for a target may use: the feature that a probe stands for, None for every CPU of
# the architecture. As in peak.c, which decides by the processor, not by the target.
_NEEDS = {
    "popcount_vpopcntdq512": "avx512vpopcntdq",
    "popcount_lookup512": "avx512bw",
    "popcount_lookup256": "avx2",
    "popcount_lookup128": "ssse3",
    "popcount_nibbles512": "avx512bw",
    "popcount_nibbles256": "avx2",
    "popcount_nibbles128": "ssse3",
    "popcount_carrysave256": "avx2",
    "popcount_shifts128": None,
    "popcount_scalar64": "popcnt",
    "popcount_neon128": "neon",
    "fma_512": "avx512f",
    "fma_256": "fma",
    "fma_separate128": None,
    "fma_neon128": "neon",
    "fma_scalar": None,
}


@dataclass(frozen=True)
class Peaks:
    """Peak rates of one core.

    Attributes:
        rates: 1e9 multiply-adds per second, by the names of the probes of `peak.c`.
        skipped: why the other probes did not run.
        compiler: the C compiler.
    """

    rates: Mapping[str, float]
    skipped: Mapping[str, str]
    compiler: str

    def best(self, kind: str, features: Collection[str]) -> tuple[str, float]:
        """The fastest probe that a target allows.

        Args:
            kind: "popcount" or "fma".
            features: of the target, LLVM's names.

        Returns:
            Its name and its rate.
        """
        allowed = {
            name: rate
            for name, rate in self.rates.items()
            if name.startswith(f"{kind}_") and (_NEEDS[name] is None or _NEEDS[name] in features)
        }
        if not allowed:  # popcount_scalar64 of an architecture without features of its own
            allowed = {n: rate for n, rate in self.rates.items() if n.startswith(f"{kind}_")}
        name = max(allowed, key=lambda name: allowed[name])
        return name, allowed[name]


@dataclass(frozen=True)
class Peak:
    """What no kernel for a target can exceed on one core of this machine.

    Attributes:
        binary_gmacs: 1e9 binary multiply-adds per second (xor, popcount, add).
        float_gmacs: 1e9 float32 multiply-adds per second.
        compiler: the C compiler.
    """

    binary_gmacs: float
    float_gmacs: float
    compiler: str


def measure_peak(features: Collection[str]) -> Peak:
    """The peak of a target that this machine runs.

    Args:
        features: of the target, LLVM's names.

    Raises:
        ToolchainError: as `measure_peaks`.
    """
    peaks = measure_peaks(cpu.cpu_features())
    (_, binary), (_, floats) = (peaks.best(kind, features) for kind in ("popcount", "fma"))
    return Peak(binary, floats, peaks.compiler)


def measure_peaks(features: Collection[str]) -> Peaks:
    """Compile and run `peak.c`; it takes the best of its own repeats.

    Args:
        features: of this processor, LLVM's names.

    Raises:
        ToolchainError: there is no C compiler, it fails, or a probe computes a wrong sum.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    compiler = compiler or shutil.which("clang")
    if not compiler or not shutil.which(compiler):
        raise ToolchainError(
            f"the peak is measured by a C program, but no C compiler was found "
            f"(looked for {compiler or 'cc, gcc, clang'}); install one or set CC"
        )
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "peak")
        command = [compiler, "-O2", str(_SOURCE), "-o", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = (done.stderr.strip() or "no message").splitlines()[0]
            raise ToolchainError(f"{compiler} could not compile {_SOURCE.name}: {first}")
        done = subprocess.run(
            [program, *sorted(features)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise ToolchainError(f"{_SOURCE.name} failed: {said}")
    rates, skipped = {}, {}
    for line in done.stdout.splitlines():
        name, rest = line.split(" ", 1)
        if rest.startswith("- "):
            skipped[name] = rest.removeprefix("- ")
        else:
            rates[name] = float(rest)
    return Peaks(rates, skipped, compiler)
