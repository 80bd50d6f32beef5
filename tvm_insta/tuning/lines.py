"""Files of one JSON value per line, appended to by processes that may be killed at any moment.

A line counts when its newline is written. A last line without one, or one that is no JSON, is what
a killed process or a full disk leaves behind: it is cut off. Damage anywhere else was not made by
that, and is named with file and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tvm_insta.errors import LogError

T = TypeVar("T")


def read_lines(path: Path, read: Callable[[Any], T]) -> tuple[list[T], int]:
    """Every line of a file, read by `read`, and how many bytes at its end are a damaged last line.

    Args:
        path: a missing file has no lines.
        read: makes a value of a line's JSON, or raises ValueError with a clause.

    Raises:
        LogError: a line before the last is damaged; or any line cannot be decoded by `read` though
            it is complete JSON with its newline.
    """
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise LogError(f"cannot read {path} ({error.strerror}): check its permissions") from error
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


def replace(path: Path, text: str) -> None:
    """Write a file completely or not at all.

    Raises:
        LogError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LogError(f"cannot write {path} ({error.strerror}): free space there") from error


def _damaged(path: Path, line: int, what: str) -> LogError:
    return LogError(
        f"{path}, line {line}: {what}; this is no interrupted write: restore the file, or delete "
        "the line (of the workload table only together with the records that count on it)"
    )
