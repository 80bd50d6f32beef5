"""Files that appear under their names only when they are complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tvm_insta.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file: whoever reads it sees the old content or the new one, never a part.

    The content is on the disk before the name is given to it, so that a power cut leaves one of the
    two, as well. An exception inside the context leaves the old file and no other. Who may read the
    file says the umask, as for any new one.

    Args:
        path: In an existing folder.

    Yields:
        A file to write to.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f".{path.name[:50]}-{secrets.token_hex(8)}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file, as `replacing` does.

    Args:
        path: In an existing folder.
        content: All of it.

    Raises:
        OSError: The disk is full, or the folder cannot be written; the old file stays.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def output(path: Path) -> Iterator[BinaryIO]:
    """Open a file that the user has named, which appears whole or not at all.

    A device or a pipe (/dev/stdout) is written to; a link stays one, to the new content.

    Args:
        path: Where; its folder exists.

    Raises:
        OSError: As `replacing`.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as stream:
            yield stream
    else:
        with replacing(path.resolve()) as stream:
            yield stream


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user has named, see `output`; an old one stays on a full disk.

    Args:
        path: Where; its folder exists.
        content: All of it.

    Raises:
        InputError: It is a folder, the disk is full, or it cannot be written there.
    """
    try:
        with output(path) as stream:
            stream.write(content)
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}); name another file, or make room"
        ) from error
