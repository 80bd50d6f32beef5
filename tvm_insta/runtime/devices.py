"""Which device runs an artefact's kernels."""

from __future__ import annotations

import json
from enum import Enum

from tvm_insta.errors import InputError
from tvm_insta.runtime.manifest import Manifest


class Device(Enum):
    """What runs the kernels of a loaded artefact."""

    CPU = "cpu"
    CUDA = "cuda"
    EMULATED = "emulated"


HELP = (
    "what runs the artefact: cuda (of one for CUDA, its default: the first card) or emulated (no "
    "card needed, see docs/cuda.md; of the plain-C form of another CPU, under QEMU)"
)
"""Of the command lines' `--device`."""


def architecture(manifest: Manifest) -> str | None:
    """The card that a CUDA artefact was compiled for, such as "sm_90"; None for a CPU's."""
    target = json.loads(manifest.target)
    return str(target["arch"]) if target.get("kind") == "cuda" else None


def choose(manifest: Manifest, name: str | None) -> Device:
    """The device of that name; None: what the artefact was compiled for.

    Raises:
        InputError: there is no such device, or the artefact is not for it.
    """
    allowed = [Device.CPU] if architecture(manifest) is None else [Device.CUDA, Device.EMULATED]
    if name is None:
        return allowed[0]
    found = next((each for each in allowed if each.value == name), None)
    if found is None:
        names = " or ".join(each.value for each in allowed)
        kind = "a CPU" if allowed == [Device.CPU] else "CUDA"
        raise InputError(
            f"got the device {name!r}, but the artefact is for {kind}, which runs on {names}"
        )
    return found
