"""The text of a target: kind or preset, then -key=value options, or a JSON object.

Only the form and the keys are checked here; `checks` checks the values.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from tvm_insta.errors import TargetError, near

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "native": {"kind": "llvm", "mcpu": "native"},
    "rpi4": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
    "rpi3": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53"},
    "pixel": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"},
    **{
        core: {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": core}
        for core in ("cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76", "neoverse-n1")
    },
    "armv7": {
        "kind": "llvm",
        "mtriple": "armv7l-linux-gnueabihf",
        "mcpu": "cortex-a9",
        "mattr": "+neon",
        "mfloat-abi": "hard",
    },
    "avx2": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"},
    "avx512": {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "icelake-server"},
    "a100": {"kind": "cuda", "arch": "sm_80"},
    "rtx4090": {"kind": "cuda", "arch": "sm_89"},
    "h100": {"kind": "cuda", "arch": "sm_90"},
    # Jetson AGX Orin: the host is the board's own CPU.
    "orin": {
        "kind": "cuda",
        "arch": "sm_87",
        "host": "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a78ae",
    },
}
KEYS: Mapping[str, tuple[str, ...]] = {
    "llvm": ("mtriple", "mcpu", "mattr", "mfloat-abi", "mabi", "num-cores"),
    "cuda": ("arch", "host"),
}
_LEGACY_KEYS = ("device", "keys", "libs", "model", "tag", "target", "system-lib", "runtime")


def read(text: str) -> tuple[str, dict[str, Any]]:
    """Text to (kind, options), the preset unfolded and every key checked; values not yet."""
    if text.lstrip().startswith("{"):
        given = _read_json(text)
        kind = given.pop("kind", None)
        if kind not in KEYS:
            raise TargetError(
                f'a JSON target needs "kind": {" or ".join(map(repr, KEYS))}, but {text.strip()} '
                f"has {kind!r}."
            )
        _check_keys(kind, given)
        return kind, given
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TargetError(
            f"the target {text!r} cannot be split: {error}; check its quotes."
        ) from None
    if not words:
        raise TargetError(f"the target is empty: give {_kinds()}.")
    base = PRESETS.get(words[0], {"kind": words[0]})
    kind = base["kind"]
    if kind not in KEYS:
        guess = near(words[0], [*KEYS, *PRESETS])
        raise TargetError(f"a target begins with {_kinds()}, not with {words[0]!r}{guess}.")
    given = _read_options(kind, words[1:])
    options = {k: v for k, v in base.items() if k != "kind"} | given
    if "mattr" in base and "mattr" in given:
        named = {item.strip()[1:] for item in given["mattr"].split(",")}
        kept = [item for item in base["mattr"].split(",") if item[1:] not in named]
        options["mattr"] = ",".join([*kept, given["mattr"]])
    return kind, options


def with_host(text: str, host: str) -> str:
    """The text of a cuda target with another host.

    Args:
        text: a cuda target as users write it.
        host: of its CPU: a target of kind llvm.

    Raises:
        TargetError: the target is no cuda target, or names a host itself.
    """
    kind, options = read(text)
    if kind != "cuda":
        raise TargetError(
            f"got a host for {text!r}, but only cuda targets have one: leave it away."
        )
    if "host" in options and PRESETS.get(text.strip(), {}).get("host") != options["host"]:
        raise TargetError(f"the target {text!r} names a host itself: leave one of the two away.")
    return json.dumps({"kind": kind, **options, "host": host})


def _kinds() -> str:
    return f"{' or '.join(KEYS)}, or a preset ({', '.join(PRESETS)})"


def _read_json(text: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            raise TargetError(f"the target {text.strip()} gives a key twice: keep one.")
        return dict(pairs)

    try:
        given = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise TargetError(f"the target {text!r} is not valid JSON: {error}.") from None
    assert isinstance(given, dict)  # the text begins with a brace
    return given


def _read_options(kind: str, words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        match = re.fullmatch(r"--?([^=\s-][^=\s]*)=(.*)", word, flags=re.DOTALL)
        if match is None:
            raise TargetError(
                f"{word!r} in a target is not of the form -key=value (keys of {kind}: "
                f"{', '.join(KEYS[kind])})."
            )
        key, value = match.groups()
        _check_keys(kind, {key: value})
        if key in options:
            raise TargetError(f"the target gives -{key} twice: keep one.")
        options[key] = value
    return options


def _check_keys(kind: str, options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in KEYS[kind]:
            old = " (a key of older TVM releases)" if key in _LEGACY_KEYS else ""
            guess = near(key, KEYS[kind])
            raise TargetError(
                f"-{key}{old} is not a key of {kind} targets{guess}; their keys are "
                f"{', '.join(KEYS[kind])}."
            )
