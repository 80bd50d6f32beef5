"""Files of an artefact, opened once: regular ones only, and never longer than they should be.

A FIFO would be waited for, a device would never end. Whoever may write to the folder can exchange a
file at any time, so nothing is opened twice: what was hashed is what is used.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tvm_insta.errors import ArtefactError

_PIECE = 1 << 20  # bytes that are read at once


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """A descriptor of the regular file `path`, for reading.

    Raises:
        ArtefactError: it cannot be opened, or is a folder, a FIFO, a socket or a device.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for somebody who writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ArtefactError(
            f"cannot read {path} ({why}); give the folder that the compiler wrote"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArtefactError(
                f"{path} is no regular file; give the folder that the compiler wrote"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def pieces(descriptor: int, path: Path) -> Iterator[bytes]:
    """What is in the file from its beginning, some bytes at a time.

    Raises:
        ArtefactError: it cannot be read.
    """
    at = 0
    while True:
        try:
            piece = os.pread(descriptor, _PIECE, at)
        except OSError as error:
            raise ArtefactError(
                f"cannot read {path} ({error.strerror}); copy or compile the artefact again"
            ) from error
        if not piece:
            return
        yield piece
        at += len(piece)


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a regular file of at most `most` bytes.

    Raises:
        ArtefactError: it cannot be read, is no regular file, or is longer.
    """
    found = bytearray()
    with open_regular(path) as descriptor:
        for piece in pieces(descriptor, path):
            found += piece
            if len(found) > most:
                raise ArtefactError(
                    f"{path} has more than {most} bytes, which is no manifest; give the folder "
                    "that the compiler wrote"
                )
    return bytes(found)


def digest(
    descriptor: int, path: Path, keep: Callable[[bytes], object] | None = None
) -> tuple[int, str]:
    """Size in bytes and SHA-256 of the file; `keep` is given every piece that is hashed."""
    size, found = 0, hashlib.sha256()
    for piece in pieces(descriptor, path):
        size += len(piece)
        found.update(piece)
        if keep is not None:
            keep(piece)
    return size, found.hexdigest()
