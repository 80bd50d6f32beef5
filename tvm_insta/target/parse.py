"""Targets as users write them: `llvm -mtriple=aarch64`, `cuda -arch=sm_90`, a preset, or JSON.

TVM 0.27 takes dictionaries only, ignores what it does not know with a warning on stderr, and gives
generic code for a misspelt CPU. Here each key, CPU and feature is checked, what was left out is
completed (and said so in `InstaTarget.notes`), and the features that result are known by name.

Grammar: `KIND|PRESET [-key=value]...`, split as a shell would, or a JSON object with "kind".

* `llvm` and `native`: this machine, with the features it reports.
* `llvm -mtriple=T [-mcpu=C] [-mattr=+f,-g] [-mfloat-abi=hard|soft] [-mabi=A] [-num-cores=N]`;
  without -mtriple, this machine's; without -mcpu, the generic CPU of the architecture.
* `cuda -arch=sm_NN [-host="llvm ..."]`; without -host, this machine.
* a preset of `PRESETS`; options behind it override its values, -mattr is added to its own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm_insta.errors import TargetError
from tvm_insta.runtime import cpu
from tvm_insta.target import llvm_info, tvm_versions
from tvm_insta.target.checks import (
    check_baseline,
    check_cpu,
    check_cuda_arch,
    check_features,
    complete_abi,
    read_mattr,
    read_num_cores,
    sorted_mattr,
    text_value,
)
from tvm_insta.target.text import KEYS, PRESETS, read
from tvm_insta.target.triples import arch_of, complete_triple

__all__ = ["KEYS", "PRESETS", "InstaTarget", "parse"]

if TYPE_CHECKING:
    from tvm.target import Target

# What browsers and Node.js have.
_SIMD128 = ("+simd128",)
# What every Linux distribution for riscv64 needs.
_RV64GC = ("+a", "+c", "+d", "+f", "+m")
# LLVM's newer instruction scheduler, off by default for most 32-bit Arm cores: the older one fills
# the sixteen vector registers twice over and spills half of what a binary convolution holds.
_SCHEDULER = "use-misched"
# LLVM never uses AMX by itself: a kernel that does says so, see `codegen.needs`.
_BY_KERNELS = frozenset({"amx-bf16", "amx-fp16", "amx-int8", "amx-tile"})
# Limits that all these cards share; TVM's GPU schedules read them from the target.
_CUDA_LIMITS = {
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 49152,
    "thread_warp_size": 32,
}


@dataclass(frozen=True)
class InstaTarget:
    """A checked and completed target.

    Attributes:
        text: as the user wrote it.
        canonical: the completed options as JSON with sorted keys; `parse` reads it back. Equal for
            equal options, however spelt: the key of tuning records.
        kind: "llvm" or "cuda".
        arch: "x86_64", "aarch64", "arm", "riscv64", "wasm32", or "cuda".
        triple: LLVM triple; of a cuda target, its host's.
        mcpu: CPU name, "" for the architecture's generic one; of a cuda target, "sm_NN".
        mattr: `+feature`/`-feature`, all plus before all minus, each sorted.
        features: all features of the CPU in LLVM's names, also those that mcpu implies; empty for
            cuda.
        vector_bits: widest integer vector that generated code uses: 512, 256 or 128.
        lanes: 32-bit lanes of such a vector: 16, 8 or 4.
        needs: features, in LLVM's names and sorted, that the (host) machine must have to run the
            code; see `runtime.cpu.missing`. Without those that only single kernels use (AMX).
        notes: sentences on what was completed, for the user to see.
        is_native: this machine has the architecture and all of `needs` (for cuda: of the host).
        host: the CPU target beside a cuda target, else None.
    """

    text: str
    canonical: str
    kind: str
    arch: str
    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    features: frozenset[str]
    vector_bits: int
    lanes: int
    needs: tuple[str, ...]
    notes: tuple[str, ...]
    is_native: bool
    host: InstaTarget | None = None

    def __post_init__(self) -> None:
        """Refuse what `parse` never builds."""
        if self.kind not in KEYS:
            raise TargetError(f"a target's kind is one of {', '.join(KEYS)}, not {self.kind!r}.")
        if self.lanes * 32 != self.vector_bits:
            raise TargetError(f"{self.lanes} lanes of 32 bits do not fill {self.vector_bits} bits.")
        if (self.host is not None) != (self.kind == "cuda"):
            raise TargetError("a cuda target, and only a cuda target, has a host.")

    @property
    def config(self) -> dict[str, Any]:
        """The dictionary behind `canonical`."""
        config: dict[str, Any] = json.loads(self.canonical)
        return config

    @property
    def tvm(self) -> Target:
        """The TVM target object, the host of a cuda target included."""
        return _tvm_target(self.canonical)


def parse(text: str) -> InstaTarget:
    """Read, check and complete a target.

    Args:
        text: see the module's grammar.

    Raises:
        TargetError: unknown kind, key, CPU, feature or architecture, with the near matches; or a
            combination that cannot give working code.
    """
    kind, options = read(text)
    return _cuda(text, options) if kind == "cuda" else _llvm(text, options)


@functools.cache
def _tvm_target(canonical: str) -> Target:
    tvm_versions.check_versions()
    from tvm.target import Target

    config = json.loads(canonical)
    return Target({**config, **_CUDA_LIMITS} if config["kind"] == "cuda" else config)


def _cuda(text: str, options: dict[str, Any]) -> InstaTarget:
    arch = check_cuda_arch(options)
    given = options.get("host", "llvm")
    host = parse(json.dumps(given) if isinstance(given, dict) else text_value("host", given))
    if host.kind != "llvm":
        raise TargetError(f"the host of a cuda target is an llvm target, not {host.text!r}.")
    return InstaTarget(
        text=text,
        canonical=_dump({"kind": "cuda", "arch": arch, "host": host.config}),
        kind="cuda",
        arch="cuda",
        triple=host.triple,
        mcpu=arch,
        mattr=(),
        features=frozenset(),
        vector_bits=128,  # loads of four words are the widest that a thread makes
        lanes=4,
        needs=host.needs,
        notes=tuple(f"host: {note}" for note in host.notes),
        is_native=host.is_native,
        host=host,
    )


def _llvm(text: str, options: dict[str, Any]) -> InstaTarget:
    notes: list[str] = []
    triple = llvm_info.host_triple()
    if "mtriple" in options:
        triple = complete_triple(text_value("mtriple", options["mtriple"]), notes)
    arch = arch_of(triple)
    mcpu = text_value("mcpu", options["mcpu"]) if "mcpu" in options else ""
    mattr = read_mattr(options.get("mattr", ""))
    native = mcpu == "native" or not (mcpu or mattr or "mtriple" in options)
    if native:
        mcpu, mattr = _native(triple, mattr, notes)
    check_cpu(triple, arch, mcpu)
    check_features(triple, arch, mattr)
    if not (native or mcpu):
        mattr = _generic(arch, mattr, notes)
    if arch == "arm" and not any(item[1:] == _SCHEDULER for item in mattr):
        mattr = sorted_mattr({*mattr, f"+{_SCHEDULER}"})
    features = llvm_info.features(triple, mcpu, mattr)
    check_baseline(arch, mcpu, mattr, features)

    config: dict[str, Any] = {"kind": "llvm", "mtriple": triple}
    if mcpu:
        config["mcpu"] = mcpu
    if mattr:
        config["mattr"] = list(mattr)
    config |= complete_abi(options, triple, arch, features, notes)
    if "num-cores" in options:
        config["num-cores"] = read_num_cores(options["num-cores"])
    needs = tuple(sorted((features & cpu.checkable(arch)) - _BY_KERNELS))
    bits = _vector_bits(arch, features)
    return InstaTarget(
        text=text,
        canonical=_dump(config),
        kind="llvm",
        arch=arch,
        triple=triple,
        mcpu=mcpu,
        mattr=mattr,
        features=features,
        vector_bits=bits,
        lanes=bits // 32,
        needs=needs,
        notes=tuple(notes),
        is_native=_same_machine(triple) and not cpu.missing(needs),
    )


def _dump(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, separators=(",", ":"))


def _native(triple: str, mattr: tuple[str, ...], notes: list[str]) -> tuple[str, tuple[str, ...]]:
    if not _same_machine(triple):
        raise TargetError(
            f"-mcpu=native means this machine, {llvm_info.host_triple()}, but -mtriple={triple} is "
            "another: name its CPU."
        )
    mcpu, extra = llvm_info.native_cpu()
    named = {item[1:] for item in mattr}
    extra = tuple(item for item in extra if item[1:] not in named)  # the user's word wins
    with_extra = f" with {', '.join(extra)}" if extra else ""
    notes.append(f"this machine: {mcpu or 'generic'}{with_extra}, from the features it reports.")
    return mcpu, sorted_mattr({*mattr, *extra})


def _generic(arch: str, mattr: tuple[str, ...], notes: list[str]) -> tuple[str, ...]:
    if arch == "riscv64" and not mattr:
        notes.append("no -mcpu or -mattr: completed to RV64GC, what Linux distributions need.")
        return _RV64GC
    if arch == "wasm32" and not mattr:
        notes.append("no -mattr: completed to +simd128, which browsers and Node.js have.")
        return _SIMD128
    plus = f" with {', '.join(mattr)}" if mattr else ""
    notes.append(f"no -mcpu: code for any {arch} CPU{plus}; name the CPU for faster code.")
    return mattr


def _same_machine(triple: str) -> bool:
    host = llvm_info.host_triple()
    return arch_of(triple) == arch_of(host) and ("linux" in triple) == ("linux" in host)


def _vector_bits(arch: str, features: frozenset[str]) -> int:
    if arch == "x86_64" and "avx512f" in features:
        return 512
    if arch == "x86_64" and "avx2" in features:
        return 256
    return 128
