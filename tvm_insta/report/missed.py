"""What a target, or this machine, could do for a network that an artefact does not do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tvm_insta.runtime import cpu
from tvm_insta.runtime.manifest import Manifest

# Features that kernels use, LLVM's names, and what for.
_FEATURES = {
    "avx2": "256-bit vectors",
    "avx512bw": "512-bit vectors",
    "avx512vpopcntdq": "bit counts in one instruction",
    "amx-int8": "AMX tiles for binary convolutions",
    "dotprod": "dot products of bytes",
}
_STEMS = {
    "int8": (("avx512vnni",), ("avxvnni",), ("dotprod",)),
    # Without tiles on AMD's cores only, which sse4a tells: Intel's vdpbf16ps is no faster than
    # multiply-adds of float32.
    "bf16": (("avx512bf16", "sse4a"), ("amx-bf16",)),
}
"""What of a target makes float layers faster in narrow numbers: all features of one of these."""

_FLOAT_SHARE = 0.05
"""Share of the multiply-accumulates from which float layers are worth a word."""


@dataclass(frozen=True)
class Missed:
    """One thing that is not used, and the option that would use it."""

    what: str
    change: str


def missed(manifest: Manifest, here: Collection[str] | None = None) -> tuple[Missed, ...]:
    """What is not used.

    Args:
        manifest: of the artefact.
        here: features of the machine that runs it, LLVM's names; None: this one's.
    """
    return (*_features(manifest, here), *_stem(manifest), *_untuned(manifest), *_slower(manifest))


def _features(manifest: Manifest, here: Collection[str] | None) -> list[Missed]:
    if here is None:
        here = cpu.cpu_features() if cpu.machine() == manifest.machine else ()
    idle = [name for name in _FEATURES if name in here and name not in manifest.features]
    if not idle or manifest.family == "cuda":
        return []
    what = ", ".join(f"{name} ({_FEATURES[name]})" for name in idle)
    return [Missed(f"this processor has {what}, the target has not", "compile --target native")]


def _stem(manifest: Manifest) -> list[Missed]:
    floats = sum(layer.macs for layer in manifest.layers if layer.kind != "binary")
    total = sum(layer.macs for layer in manifest.layers)
    has = set(manifest.features)
    able = [stem for stem, ways in _STEMS.items() if any(has.issuperset(way) for way in ways)]
    if manifest.options.get("stem") != "fp32" or not able or floats < _FLOAT_SHARE * total:
        return []
    what = f"float layers ({floats / 1e6:.1f} M multiply-accumulates) compute in float32"
    how = " or ".join(f"--stem {stem}" for stem in able)
    return [Missed(what, f"compile {how}; validate says what it changes")]


def _untuned(manifest: Manifest) -> list[Missed]:
    found = []
    states = {
        "default": "have no tuning record",
        "similar": "take the parameters of the same layer with another epilogue, having no record",
        "stale": "have stale records",
    }
    for state, what in states.items():
        symbols = {
            kernel.symbol
            for layer in manifest.layers
            for kernel in manifest.kernels_of(layer)
            if kernel.schedule is not None and kernel.schedule.state == state
        }
        if symbols and manifest.family != "cuda":
            text = f"{len(symbols)} kernels of layers {what} for this target"
            found.append(Missed(text, f'tune --target "{manifest.target_text}"'))
    return found


def _slower(manifest: Manifest) -> list[Missed]:
    reasons: dict[str, list[str]] = {}
    for kernel in manifest.kernels:
        if kernel.schedule is not None and kernel.schedule.fallback:
            reasons.setdefault(kernel.schedule.fallback, []).append(kernel.symbol)
    return [
        Missed(f"{len(set(symbols))} kernels fell back to a slower schedule: {reason}", "report it")
        for reason, symbols in reasons.items()
    ]
