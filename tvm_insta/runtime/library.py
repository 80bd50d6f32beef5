"""Open an artefact's shared library: exactly the bytes that were checked, and no others.

The file is read once, into memory of this process that nobody can change any more; its hash is
taken on the way, and the dynamic loader is given that memory. So it does not matter what becomes of
the file between the check and the load, or afterwards.

One library is one copy in the process for as long as a module uses it: modules of the same file
share its static memory and its lock. With the last of them it is closed.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tvm_insta.errors import ArtefactError, one_line
from tvm_insta.runtime import process
from tvm_insta.runtime.entries import FileEntry
from tvm_insta.runtime.manifest import check_entry, check_size
from tvm_insta.runtime.regular_file import digest, open_regular

_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # of Linux: no further seal, no shorter, no longer, no other bytes
_ADD_SEALS = 1033

_guard = process.Lock()
_numbers = itertools.count(1)
_libraries: weakref.WeakValueDictionary[tuple[Path, str, str], Library] = (
    weakref.WeakValueDictionary()
)


class Library:
    """A shared library in this process.

    Attributes:
        handle: what the opener gave.
        lock: serialises runs; a fork waits for it, see `runtime.process`.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.lock = process.Lock()


def open_library(
    path: Path, entry: FileEntry | None, form: str, opener: Callable[[str], Any]
) -> Library:
    """Load the file into this process, or take the library that it is already.

    Args:
        path: the file.
        entry: what the manifest says of it; None if it is not to be checked.
        form: "c" or "vm": how it is opened.
        opener: is given a path for the dynamic loader, good during the call only.

    Raises:
        ArtefactError: the file is no regular file, is not what `entry` says, or the dynamic loader
            refuses it.
    """
    with open_regular(path) as source:
        if entry is not None:
            check_size(path, entry, os.fstat(source).st_size)
        copy = _anonymous_file(path.name)
        try:
            size, sha256 = digest(source, path, lambda piece: _write(copy, piece, path))
            if entry is not None:
                check_entry(path, entry, size, sha256)
            _seal(copy)
            return _shared(path.resolve(), sha256, form, copy, opener)
        finally:
            os.close(copy)


def _shared(path: Path, sha256: str, form: str, copy: int, opener: Callable[[str], Any]) -> Library:
    with _guard:
        found = _libraries.get((path, sha256, form))
        if found is None:
            try:
                found = Library(opener(_name_for_the_loader(copy)))
            except (OSError, RuntimeError) as error:
                raise ArtefactError(
                    f"the dynamic loader refuses {path} ({one_line(error)}); the file is damaged "
                    "or made for another machine or runtime: compile it for this one"
                ) from error
            _libraries[path, sha256, form] = found
        return found


def _name_for_the_loader(descriptor: int) -> str:
    """A path of the open file that was never given before.

    The loader takes a path that it has seen for the library that it loaded then, and descriptors
    are numbered anew all the time. So a number that grows is written into the path as slashes and
    dots, which mean nothing.
    """
    dots = "".join("/." if bit == "1" else "/" for bit in f"{next(_numbers):b}")
    return f"/proc/self/fd{dots}/{descriptor}"


def _anonymous_file(name: str) -> int:
    """A descriptor of memory without a name; of a file without a name where there is no such."""
    try:
        return os.memfd_create(name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # Linux before 3.17, or a sandbox
        descriptor, temporary = tempfile.mkstemp(prefix="tvm_insta-", suffix=".so")
        Path(temporary).unlink()
        return descriptor


def _write(descriptor: int, piece: bytes, path: Path) -> None:
    rest = memoryview(piece)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except OSError as error:
            raise ArtefactError(
                f"there is no memory for {path} ({error.strerror}); free some"
            ) from error


def _seal(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEALS)
    except OSError:  # a file of `mkstemp`: no name leads to it
        pass
