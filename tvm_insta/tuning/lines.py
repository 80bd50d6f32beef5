"""Files of one JSON value per line, appended to by processes that may be killed at any moment.

A line counts when its newline is written. A last line without one, or one that is no JSON, is what
a killed process or a full disk leaves behind: it is cut off. Damage anywhere else was not made by
that, and is named with file and line.

A file that is committed may be packed: NAME.xz in place of NAME. Where both are there NAME counts,
for that one is appended to.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tvm_insta.errors import LogError
from tvm_insta.files import write_atomically

T = TypeVar("T")


def read_lines(path: Path, read: Callable[[Any], T]) -> tuple[list[T], int]:
    """Every line of a file, read by `read`, and how many bytes at its end are a damaged last line.

    Args:
        path: a missing file has no lines; it may be packed.
        read: makes a value of a line's JSON, or raises ValueError with a clause.

    Raises:
        LogError: a line before the last is damaged; or any line cannot be decoded by `read` though
            it is complete JSON with its newline.
    """
    data = _content(path)
    values: list[T] = []
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        last = end < 0 or end == len(data) - 1
        try:
            entry = json.loads(data[at : end if end >= 0 else None].decode("utf-8"))
            if end < 0:
                raise ValueError("the line has no end")
        except ValueError as error:  # of JSON or UTF-8
            if last:
                return values, len(data) - at
            raise _damaged(path, len(values) + 1, "no JSON") from error
        try:
            values.append(read(entry))
        except ValueError as error:
            raise _damaged(path, len(values) + 1, str(error)) from error
        at = end + 1
    return values, 0


def exists(path: Path) -> bool:
    """Whether a file is there, packed or not."""
    return any(each.exists() for each in either(path))


def either(path: Path) -> tuple[Path, Path]:
    """Where a file is: as it is named, or packed."""
    return path, _packed(path)


def pack(path: Path) -> None:
    """Pack a file, if it is there.

    Raises:
        LogError: the packed one cannot be written.
    """
    if path.exists():
        replace(_packed(path), lzma.compress(path.read_bytes(), preset=9))
        path.unlink()


def unpack(path: Path) -> None:
    """Undo `pack`, if it was done.

    Raises:
        LogError: the packed file is damaged, or the other cannot be written.
    """
    if not path.exists() and _packed(path).exists():
        replace(path, _content(path))
    _packed(path).unlink(missing_ok=True)


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.xz")


def _content(path: Path) -> bytes:
    """The bytes of a file, packed or not, b"" where there is none."""
    try:
        if path.exists():
            return path.read_bytes()
        return lzma.decompress(_packed(path).read_bytes()) if exists(path) else b""
    except OSError as error:
        raise LogError(f"cannot read {path} ({error.strerror}): check its permissions") from error
    except (lzma.LZMAError, EOFError) as error:
        raise LogError(f"{_packed(path)} is damaged ({error}): restore it") from error


def cut(path: Path, count: int) -> None:
    """Remove the last `count` bytes of a file."""
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - count)
        os.fsync(stream.fileno())


def append(path: Path, entries: Sequence[Any]) -> None:
    """Write lines behind the others; they are on disk when this returns.

    Raises:
        LogError: the file cannot be written.
    """
    text = "".join(dumped(entry) for entry in entries)
    try:
        with path.open("ab") as stream:
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise LogError(f"cannot write {path} ({error.strerror}): free space there") from error


def dumped(entry: Any) -> str:
    """A value as a line."""
    return json.dumps(entry, separators=(",", ":"), allow_nan=False) + "\n"


def replace(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        LogError: the file cannot be written.
    """
    try:
        write_atomically(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise LogError(f"cannot write {path} ({error.strerror}): free space there") from error


def _damaged(path: Path, line: int, what: str) -> LogError:
    return LogError(
        f"{path}, line {line}: {what}; this is no interrupted write: restore the file, or delete "
        "the line (of the workload table only together with the records that count on it)"
    )
