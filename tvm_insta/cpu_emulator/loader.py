"""Load an artefact of another CPU, or say why it cannot be run here."""

from __future__ import annotations

from pathlib import Path

from tvm_insta.cpu_emulator.backend import EmulatedBackend
from tvm_insta.cpu_emulator.emulator import EMULATORS, find
from tvm_insta.errors import EmulatorError, ToolchainError
from tvm_insta.runtime import devices
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.module import Module
from tvm_insta.target import parse
from tvm_insta.target.toolchain import Linker, find_linker


def reason_against(manifest: Manifest) -> str | None:
    """Why an artefact cannot be emulated here; None if it can.

    Args:
        manifest: of the artefact.
    """
    try:
        _tools(manifest)
    except (EmulatorError, ToolchainError) as error:
        return str(error)
    return None


def _tools(manifest: Manifest) -> tuple[tuple[str, ...], Linker]:
    """The emulator's command and the linker for an artefact.

    Raises:
        EmulatorError: it cannot be emulated, or no emulator is here.
        ToolchainError: there is no linker.
    """
    if devices.architecture(manifest) is not None:
        raise EmulatorError("it is for CUDA, whose emulated device is another")
    if manifest.form != "c" or not manifest.library.endswith(".so"):
        raise EmulatorError(
            "only the plain-C form of a Linux target is emulated: compile with --runtime c"
        )
    target = parse(manifest.target)
    # With features of its own choice it is no CPU that QEMU has a model of.
    command = find(target.arch, None if "mattr" in target.config else target.mcpu)
    if command is None:
        name = EMULATORS.get(target.arch)
        how = f"install {name} (package qemu-user on Debian)" if name else "there is none"
        raise EmulatorError(f"no emulator of {target.arch} is here: {how}")
    return command, find_linker(target)


def load(path: str | Path, *, threads: int | None = None) -> Module:
    """Load the artefact of another CPU in the folder `path` onto QEMU's user emulation.

    Args:
        path: the folder that the compiler wrote.
        threads: how many threads one run uses; None: one.

    Returns:
        A module as `runtime.load` gives it, that runs and traces, but is not timed.

    Raises:
        ArtefactError: a file is missing or damaged.
        EmulatorError: it cannot be emulated here.
        ToolchainError: it cannot be linked here.
    """
    folder = Path(path)
    manifest = manifests.read(folder / manifests.FILE_NAME)
    manifests.check_files(folder, manifest, list(manifest.files))
    try:
        command, linker = _tools(manifest)
    except (EmulatorError, ToolchainError) as error:
        raise EmulatorError(f"{folder} cannot be emulated: {error}") from error
    backend = EmulatedBackend(folder, manifest, linker, command, threads=threads)
    return Module(folder, manifest, device=devices.Device.EMULATED, backend=backend)
