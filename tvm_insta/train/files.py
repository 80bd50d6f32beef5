"""Files that appear under their names only when they are complete."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file: whoever reads it sees the old content or the new one, never a part.

    The content is on the disk before the name is given to it, so that a power cut leaves one of the
    two, as well.

    Args:
        path: In an existing folder.
        content: All of it.

    Raises:
        OSError: The disk is full, or the folder cannot be written; the old file stays.
    """
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(partial).chmod(0o666 & ~mask)  # mkstemp lets only its owner read
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
