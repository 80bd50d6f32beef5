"""The values of a target's options, checked against what LLVM knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tvm_insta.errors import TargetError, near
from tvm_insta.target import llvm_info
from tvm_insta.target.triples import arch_of

CUDA_ARCHS = tuple(
    f"sm_{n}"
    for n in (
        "50 52 53 60 61 62 70 72 75 80 86 87 89 90 90a 100 100a 100f 103 103a 103f 110 110a 110f "
        "120 120a 120f 121 121a 121f"
    ).split()
)
# Without these LLVM aborts the process, or gives code of another calling convention.
_BASELINE: Mapping[str, tuple[str, ...]] = {
    "x86_64": ("64bit", "sse2"),
    "aarch64": ("fp-armv8", "neon"),
    "arm": ("neon", "vfp3"),
    "riscv64": ("64bit",),
}
_MABI: Mapping[str, tuple[str, ...]] = {"riscv64": ("lp64", "lp64f", "lp64d")}


def text_value(key: str, value: object) -> str:
    """The value of a key that takes one word, stripped; an error if it is none."""
    if not isinstance(value, str) or not value.strip():
        raise TargetError(f"-{key} of a target must be a non-empty string, not {value!r}.")
    return value.strip()


def check_cuda_arch(options: Mapping[str, Any]) -> str:
    """The `sm_NN` of a cuda target's options; TVM would take any number."""
    if "arch" not in options:
        raise TargetError(
            'a cuda target needs the card\'s architecture, as in "cuda -arch=sm_90" '
            "(nvidia-smi --query-gpu=compute_cap --format=csv prints 9.0 for sm_90)."
        )
    arch = text_value("arch", options["arch"])
    if arch not in CUDA_ARCHS:
        raise TargetError(
            f"-arch={arch} is not an architecture of a cuda target{near(arch, CUDA_ARCHS)}; known "
            f"are {', '.join(CUDA_ARCHS)}."
        )
    return arch


def read_mattr(value: object) -> tuple[str, ...]:
    """`+a,-b` or ["+a", "-b"] to a sorted tuple."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(item, str) for item in given):
        raise TargetError(
            f"-mattr must be +feature,-feature,... or a JSON list of them, not {value!r}."
        )
    items = {item.strip() for item in given if item.strip()}
    for item in items:
        if not re.fullmatch(r"[+-]\S+", item):
            raise TargetError(
                f"{item!r} in -mattr must begin with + (use) or - (do not use), as in +{item}."
            )
    both = sorted(i[1:] for i in items if i[0] == "+" and f"-{i[1:]}" in items)
    if both:
        raise TargetError(f"-mattr both adds and removes {', '.join(both)}: keep one.")
    return sorted_mattr(items)


def sorted_mattr(items: set[str]) -> tuple[str, ...]:
    """One order for one meaning: additions first, so that a removal always holds."""
    return tuple(sorted(items, key=lambda item: (item[0] == "-", item)))


def check_cpu(triple: str, arch: str, mcpu: str) -> None:
    """Raise TargetError unless LLVM knows the CPU ("" passes); TVM would only warn."""
    known = llvm_info.cpus(triple)
    if not mcpu or mcpu in known:
        return
    for other in ("x86_64-linux-gnu", "aarch64-linux-gnu", "armv7l-linux-gnueabihf"):
        if mcpu in llvm_info.cpus(other):
            raise TargetError(
                f"-mcpu={mcpu} is a CPU of {arch_of(other)}, not of {arch}: add -mtriple={other}."
            )
    raise TargetError(
        f"-mcpu={mcpu} is none of the {len(known)} CPUs that LLVM knows for {arch}"
        f"{near(mcpu, known) or ', such as ' + ', '.join(known[:: max(1, len(known) // 8)])}."
    )


def check_features(triple: str, arch: str, mattr: tuple[str, ...]) -> None:
    """Raise TargetError unless each item names a feature of the architecture."""
    known = llvm_info.known_features(triple)
    for item in mattr:
        if item[1:] not in known:
            raise TargetError(
                f"{item} in -mattr is not a feature that a CPU of {arch} has"
                f"{near(item[1:], sorted(known))}."
            )


def check_baseline(arch: str, mcpu: str, mattr: tuple[str, ...], features: frozenset[str]) -> None:
    """Raise TargetError if the features that all code of the architecture uses are not there."""
    lacking = [name for name in _BASELINE.get(arch, ()) if name not in features]
    if lacking:
        parts = [f"-mcpu={mcpu}" if mcpu else "", f"-mattr={','.join(mattr)}" if mattr else ""]
        what = " ".join(filter(None, parts))
        raise TargetError(
            f"{what} leaves {arch} without {', '.join(lacking)}, which all code for {arch} here "
            "needs: take another CPU or feature list."
        )


def complete_abi(
    options: Mapping[str, Any],
    triple: str,
    arch: str,
    features: frozenset[str],
    notes: list[str],
) -> dict[str, str]:
    """The keys mfloat-abi and mabi, checked against the triple and completed."""
    abi: dict[str, str] = {}
    if "mfloat-abi" in options and arch != "arm":
        raise TargetError(f"-mfloat-abi belongs to 32-bit Arm, not to {arch}: leave it out.")
    if "mabi" in options and options["mabi"] not in _MABI.get(arch, ()):
        allowed = ", ".join(_MABI.get(arch, ())) or "none: leave it out"
        raise TargetError(
            f"-mabi={options['mabi']} is not allowed for {arch} (allowed: {allowed})."
        )
    if arch == "arm":
        fits = "hard" if triple.endswith("hf") else "soft"
        abi["mfloat-abi"] = options.get("mfloat-abi", fits)
        if abi["mfloat-abi"] != fits:
            raise TargetError(
                f"-mfloat-abi={abi['mfloat-abi']} does not fit -mtriple={triple}, which is "
                f"{fits}-float: use -mfloat-abi={fits}, or a triple ending in gnueabihf (hard) or "
                "gnueabi (soft)."
            )
        if "mfloat-abi" not in options:
            notes.append(f"-mfloat-abi={fits} follows from {triple}.")
    if arch == "riscv64":
        abi["mabi"] = options.get("mabi", "lp64d" if "d" in features else "lp64")
        float_feature = abi["mabi"].removeprefix("lp64")
        if float_feature and float_feature not in features:
            raise TargetError(
                f"-mabi={abi['mabi']} passes floats in registers that this CPU lacks: add "
                f"-mattr=+{float_feature}, or use -mabi=lp64."
            )
    return abi


def read_num_cores(value: object) -> int:
    """A number or its digits, 1 to 9999."""
    if isinstance(value, bool) or not re.fullmatch(r"[1-9]\d{0,3}", str(value)):
        raise TargetError(f"-num-cores must be a whole number from 1 to 9999, not {value!r}.")
    return int(str(value))
