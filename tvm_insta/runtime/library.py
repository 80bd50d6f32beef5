"""Open an artefact's shared library, safely with regard to the dynamic loader's habits.

The loader identifies a library by its path: a model that was compiled again to the same path would
silently be the old one for as long as the process lives. So the hash of what was opened under each
path is remembered, and another content is opened through a private copy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tvm_insta.errors import ArtefactError

T = TypeVar("T")

_guard = threading.Lock()
_opened: dict[Path, str] = {}
_locks: dict[tuple[Path, str], threading.Lock] = {}


def open_library(path: Path, sha256: str, opener: Callable[[str], T]) -> tuple[T, threading.Lock]:
    """Open `path` with `opener`; returns its result and the lock that serialises runs.

    Two modules from one file share its static memory, so they share the lock too.

    Raises:
        ArtefactError: if the dynamic loader refuses the file.
    """
    path = path.resolve()
    with _guard:
        lock = _locks.setdefault((path, sha256), threading.Lock())
        first = _opened.setdefault(path, sha256)
        try:
            if first == sha256:
                return opener(str(path)), lock
            return _open_copy(path, opener), threading.Lock()
        except (OSError, RuntimeError) as error:
            if first == sha256:
                _opened.pop(path, None)
            raise ArtefactError(
                f"the dynamic loader refuses {path} ({error}); the file is damaged or made for "
                "another machine or runtime: compile it for this one"
            ) from error


def _open_copy(path: Path, opener: Callable[[str], T]) -> T:
    """Open a copy that is deleted at once: a mapped file lives on without its name."""
    handle, name = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".so")
    os.close(handle)
    try:
        shutil.copyfile(path, name)
        return opener(name)
    finally:
        Path(name).unlink()
