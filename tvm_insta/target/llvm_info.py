"""What the LLVM inside TVM knows of CPUs: names, features, and the best name for this machine.

The only place that asks TVM's LLVM. Each answer is kept: a whole architecture's list takes 20 ms.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tvm_insta.runtime import cpu
from tvm_insta.target import tvm_versions

if TYPE_CHECKING:
    from types import ModuleType

    from tvm.target import Target

# Named CPUs to try on an x86-64 machine, best first. Vendors are kept apart because a name also
# chooses instruction costs; which instructions are used is decided by the features alone.
_X86_CPUS = {
    "amd": ("znver5", "znver4", "znver3", "znver2", "znver1"),
    "intel": (
        "graniterapids",
        "sapphirerapids",
        "icelake-server",
        "cascadelake",
        "skylake-avx512",
        "alderlake",
        "haswell",
        "sandybridge",
        "nehalem",
    ),
}
_X86_LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")


def _codegen() -> ModuleType:
    tvm_versions.check_versions()
    from tvm.target import codegen

    module: ModuleType = codegen
    return module


def _target(config: dict[str, object]) -> Target:
    tvm_versions.check_versions()
    from tvm.target import Target

    return Target(config)


@functools.cache
def cpus(triple: str) -> tuple[str, ...]:
    """The CPU names that LLVM takes for a target triple, sorted."""
    names = _codegen().llvm_get_cpu_archlist(_target({"kind": "llvm", "mtriple": triple}))
    return tuple(sorted(str(name) for name in names))


@functools.cache
def features(triple: str, mcpu: str = "", mattr: tuple[str, ...] = ()) -> frozenset[str]:
    """The features of a CPU with `mattr` applied, those that others imply included.

    Args:
        triple: an LLVM target triple with a Linux-style architecture part.
        mcpu: a name of `cpus(triple)`, or "" for the generic CPU of the architecture.
        mattr: `+feature` and `-feature`, applied in this order.
    """
    config: dict[str, object] = {"kind": "llvm", "mtriple": triple}
    if mcpu:
        config["mcpu"] = mcpu
    if mattr:
        config["mattr"] = list(mattr)
    return frozenset(str(name) for name in _codegen().llvm_get_cpu_features(_target(config)))


@functools.cache
def known_features(triple: str) -> frozenset[str]:
    """Every feature that some CPU of the architecture has: what `mattr` may name."""
    return features(triple).union(*(features(triple, name) for name in cpus(triple)))


@functools.cache
def host_triple() -> str:
    """The triple of this machine, in the plain form of the distributions (`x86_64-linux-gnu`)."""
    if sys.platform != "linux":
        return str(_codegen().llvm_get_system_triple())
    arch = cpu.machine()
    return "armv7l-linux-gnueabihf" if arch == "arm" else f"{arch}-linux-gnu"


def choose_cpu(
    triple: str, have: frozenset[str], candidates: Iterable[str]
) -> tuple[str, tuple[str, ...]]:
    """The first candidate of which a machine with the features `have` lacks nothing, and the rest.

    Args:
        triple: the machine's triple.
        have: the machine's features, as `runtime.cpu.cpu_features` reads them.
        candidates: CPU names, best first.

    Returns:
        (mcpu, mattr): "" if no candidate fits; mattr holds `+feature` for each feature of the
        machine that the name does not bring.
    """
    known = set(cpus(triple))
    arch = triple.partition("-")[0]
    checkable = cpu.checkable("arm" if arch.startswith("arm") else arch)
    mcpu = next(
        (c for c in candidates if c in known and features(triple, c) & checkable <= have), ""
    )
    extra = (have & known_features(triple)) - features(triple, mcpu)
    return mcpu, tuple(f"+{name}" for name in sorted(extra))


@functools.cache
def native_cpu() -> tuple[str, tuple[str, ...]]:
    """(mcpu, mattr) for this machine, from the features it reports and not from its name.

    LLVM's own guess reads the CPU's model number, which a virtual machine may mask. It is used only
    where no better order of names is known, and only if its features are all here.
    """
    codegen = _codegen()
    guess = str(codegen.llvm_get_system_cpu())
    have = cpu.cpu_features()
    if not have:  # not Linux: nothing to check the guess against
        return guess, ()
    if cpu.machine() != "x86_64":
        return choose_cpu(host_triple(), have, (guess,))
    vendor = str(codegen.llvm_get_system_x86_vendor())
    return choose_cpu(host_triple(), have, (*_X86_CPUS.get(vendor, ()), *_X86_LEVELS, "x86-64"))
