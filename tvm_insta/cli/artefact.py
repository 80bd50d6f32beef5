"""The artefact of a command line, on the device that it names."""

from __future__ import annotations

from pathlib import Path

from tvm_insta import runtime
from tvm_insta.runtime import devices
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.module import locate


def load(path: Path, device: str | None, *, threads: int | None = None) -> runtime.Module:
    """Load an artefact.

    Args:
        path: its folder, its library or its manifest.
        device: what `--device` says; "emulated" of an artefact for a CPU is QEMU's.
        threads: how many threads one run uses; None: see `runtime.load`.

    Raises:
        InstaError: it cannot be loaded here.
    """
    if device == devices.Device.EMULATED.value:
        folder, _ = locate(path)
        manifest = manifests.read(folder / manifests.FILE_NAME)
        if devices.architecture(manifest) is None:
            from tvm_insta import cpu_emulator  # it asks TVM about the target

            return cpu_emulator.load(folder, threads=threads)
    return runtime.load(path, threads=threads, device=device)
