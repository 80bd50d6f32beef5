"""Target triples: the architecture inside one, and the Linux triple behind a bare architecture."""

from __future__ import annotations

import re

from tvm_insta.errors import TargetError, near

# (first part of a triple, architecture, triple that stands for the bare first part)
_ARCHS = (
    (r"x86_64|amd64", "x86_64", "x86_64-linux-gnu"),
    (r"aarch64|arm64", "aarch64", "aarch64-linux-gnu"),
    (r"arm|armhf|armv7|armv7l|armv7a|armv8l", "arm", "armv7l-linux-gnueabihf"),
    (r"riscv64", "riscv64", "riscv64-linux-gnu"),
    (r"wasm32", "wasm32", "wasm32-wasi"),
)
_NAMES = "x86_64 amd64 aarch64 arm64 arm armhf armv7l riscv64 wasm32".split()


def _entry(triple: str) -> tuple[str, str]:
    first = triple.partition("-")[0]
    for pattern, arch, full in _ARCHS:
        if re.fullmatch(pattern, first):
            return arch, full
    raise TargetError(
        f"-mtriple={triple} begins with no architecture that is supported here"
        f"{near(first, _NAMES)}; these are x86_64, aarch64, armv7l, riscv64 and wasm32."
    )


def arch_of(triple: str) -> str:
    """`x86_64`, `aarch64`, `arm`, `riscv64` or `wasm32`.

    Raises:
        TargetError: another architecture.
    """
    return _entry(triple)[0]


def complete_triple(triple: str, notes: list[str]) -> str:
    """A bare architecture becomes its Linux triple; the plain `arm` of a triple becomes `armv7l`.

    LLVM takes `arm` for ARMv4, which knows neither NEON nor hardware floating point. A sentence on
    each change is added to `notes`.
    """
    arch, full = _entry(triple)
    first, dash, rest = triple.partition("-")
    if not dash:
        done = full
    elif arch == "arm" and first in ("arm", "armhf"):
        done = f"armv7l-{rest}"
    else:
        return triple
    if done != triple:
        notes.append(f"-mtriple={triple} was completed to {done}.")
    return done
