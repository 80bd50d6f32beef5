"""Folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tvm_insta.errors import ArtefactError


def check_folder(folder: Path) -> None:
    """Refuse a folder that `staged` could not write, before the work whose result goes there.

    Raises:
        ArtefactError: it, or the folder it would be made in, is a file or cannot be written.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    why = None
    if not nearest.is_dir():
        why = f"{nearest} is no folder"
    elif not os.access(nearest, os.W_OK | os.X_OK):
        why = f"{nearest} cannot be written"
    if why is not None:
        raise ArtefactError(f"cannot write to {folder} ({why}); name another output folder")


@contextmanager
def staged(folder: Path, last: str = "model.json") -> Iterator[Path]:
    """Give a temporary folder whose files move to `folder` when the block ends without error.

    Everything is written before anything moves, so a full disk leaves `folder` as it was. The file
    `last` moves last: a process killed between two moves leaves a manifest whose hashes do not
    match, which the loader refuses.

    Raises:
        ArtefactError: if the folder cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".tvm_insta-", dir=folder))
    except OSError as error:
        raise ArtefactError(
            f"cannot write to {folder} ({error.strerror}); name another output folder"
        ) from error
    try:
        yield stage
        for path in sorted(stage.iterdir(), key=lambda entry: (entry.name == last, entry.name)):
            path.replace(folder / path.name)
    except OSError as error:
        raise ArtefactError(
            f"cannot write the artefact to {folder} ({error.strerror}); free space or name another "
            "output folder"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
