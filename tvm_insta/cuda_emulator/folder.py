"""The emulated device for programs without Python: a folder of libraries in the place of CUDA's.

A program that is started with `LD_LIBRARY_PATH` naming the folder finds its libcuda.so.1 and
libcudart.so.13, and in them a card that has been started: what is translated elsewhere when a
module is loaded lies beside them, under the hash of the module's image.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tvm_insta.cuda_emulator.build import DRIVER, RUNTIME, build_driver, build_kernels
from tvm_insta.cuda_emulator.fatbin import images_in, ptx_of
from tvm_insta.cuda_emulator.options import SHARED_LIMITS, architecture
from tvm_insta.cuda_emulator.ptx.translate import translate
from tvm_insta.errors import EmulatorError

_OFFSET, _PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1  # of FNV-1a


def write_folder(library: Path, out: Path, arch: str | None) -> None:
    """Write the libraries with which a program runs an artefact on the emulated device.

    Args:
        library: of the artefact.
        out: folder to write; files of the same names are replaced.
        arch: of the device, such as "sm_90"; None: a machine with CUDA's libraries and no card.

    Raises:
        EmulatorError: the library holds no device code with PTX, or nothing can be compiled here.
    """
    images = images_in(library.read_bytes())
    if not images:
        raise EmulatorError(f"{library} holds no device code: it is no artefact for CUDA")
    out.mkdir(parents=True, exist_ok=True)
    for name, made in zip((DRIVER, RUNTIME), build_driver(), strict=True):
        shutil.copyfile(made, out / name)
    for image in images:
        shutil.copyfile(build_kernels(translate(ptx_of(image))), out / f"{fnv(image):016x}.so")
    device = out / "device"
    device.unlink(missing_ok=True)
    if arch is not None:
        number = architecture(arch)
        device.write_text(f"{number} {SHARED_LIMITS[number]}\n", encoding="ascii")


def fnv(image: bytes) -> int:
    """FNV-1a of 64 bits, which driver.cpp computes, too."""
    value = _OFFSET
    for byte in image:
        value = (value ^ byte) * _PRIME & _MASK
    return value
