"""The PTX in an image that a program gives to the CUDA driver: plain text, or NVIDIA's fat binary.

A fat binary is a header of 16 bytes and entries behind each other. Its layout is not published; the
fields read here are those that NVIDIA's `fatbinary` writes and open-source loaders agree on.
"""

from __future__ import annotations

import ctypes
import struct

from tvm_insta.errors import EmulatorError

MAGIC = 0xBA55ED50
_HEADER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes behind it
_ENTRY = struct.Struct("<HHIQI")  # kind, version, bytes of this header, of the rest, compressed
_PTX = 1
_LIMIT = 1 << 30


def ptx_at(address: int) -> str:
    """The PTX of the image at an address of this process.

    Raises:
        EmulatorError: there is no PTX, or it is compressed.
    """
    start = ctypes.string_at(address, 4)
    if struct.unpack("<I", start)[0] == MAGIC:
        header = ctypes.string_at(address, _HEADER.size)
        _, _, skip, size = _HEADER.unpack(header)
        if size > _LIMIT:
            raise EmulatorError("the fat binary's header is damaged")
        return ptx_of(ctypes.string_at(address, skip + size))
    if start == b"\x7fELF":
        raise EmulatorError(
            "the device code is machine code only, which the emulator cannot execute: compile the "
            "artefact again, which puts PTX beside it"
        )
    return ctypes.string_at(address).decode("utf-8", errors="replace")


def ptx_of(image: bytes) -> str:
    """The PTX in a fat binary.

    Raises:
        EmulatorError: there is none, it is compressed, or the binary is damaged.
    """
    if len(image) < _HEADER.size or _HEADER.unpack_from(image)[0] != MAGIC:
        raise EmulatorError("the device code is no fat binary")
    _, _, at, size = _HEADER.unpack_from(image)
    end = at + size
    while at + _ENTRY.size <= min(end, len(image)):
        kind, _, skip, length, compressed = _ENTRY.unpack_from(image, at)
        if skip < _ENTRY.size or at + skip + length > len(image):
            raise EmulatorError("the fat binary is damaged")
        if kind == _PTX:
            if compressed:
                raise EmulatorError(
                    "the PTX in the fat binary is compressed: give nvcc --compress-mode=none"
                )
            return image[at + skip : at + skip + length].rstrip(b"\0").decode("utf-8")
        at += skip + length
    raise EmulatorError("the fat binary holds no PTX, which the emulator executes")


def images_in(file: bytes) -> list[bytes]:
    """The fat binaries with PTX in a file, such as an artefact's library, in order."""
    magic, found, at = struct.pack("<I", MAGIC), [], -1
    while (at := file.find(magic, at + 1)) >= 0:
        if at + _HEADER.size > len(file):
            break
        _, version, skip, size = _HEADER.unpack_from(file, at)
        image = file[at : at + skip + size]
        if (version, skip) != (1, _HEADER.size) or len(image) != skip + size:
            continue  # four bytes that look like one
        ptx_of(image)
        found.append(image)
    return found
