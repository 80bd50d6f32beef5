"""Folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import manifest as manifests


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

    Everything is written before anything moves, so a full disk leaves `folder` as it was. The
    manifest and the file `last` move last: a process killed between two moves leaves a manifest
    whose hashes do not match, which the loader refuses.

    Files of an artefact that was there, as its manifest lists them, are removed before the manifest
    is replaced: a Makefile would link the archive of the form that was compiled before. A process
    killed between leaves the old manifest, so the next artefact removes the rest. What no manifest
    lists stays.

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
        late = (manifests.FILE_NAME, last)
        new = {path.name for path in stage.iterdir()}
        old = manifests.listed_files(folder / manifests.FILE_NAME)
        for name in sorted(new.difference(late)):
            (stage / name).replace(folder / name)
        if manifests.FILE_NAME in new:
            _remove(folder, set(old) - new)
        for name in dict.fromkeys(late):
            if name in new:
                (stage / name).replace(folder / name)
    except OSError as error:
        raise ArtefactError(
            f"cannot write the artefact to {folder} ({error.strerror}); free space or name another "
            "output folder"
        ) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _remove(folder: Path, names: set[str]) -> None:
    for name in sorted(names):
        path = folder / name
        if path.is_symlink() or path.is_file():
            path.unlink(missing_ok=True)
