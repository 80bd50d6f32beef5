"""Brackets and strings in C text."""

from __future__ import annotations

from collections.abc import Iterator

from tvm_insta.errors import EmulatorError

_OPEN, _CLOSE = "([{", ")]}"


def closing(text: str, at: int) -> int:
    """Where the bracket that was opened before `at` is closed.

    Raises:
        EmulatorError: nowhere.
    """
    depth = 1
    for place, char in _outside_strings(text, at):
        depth += (char in _OPEN) - (char in _CLOSE)
        if not depth:
            return place
    raise EmulatorError("the CUDA C ends within brackets")


def split_top(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are in no brackets and no strings."""
    parts, depth, start = [], 0, 0
    for place, char in _outside_strings(text, 0):
        depth += (char in _OPEN) - (char in _CLOSE)
        if char == separator and not depth:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _outside_strings(text: str, at: int) -> Iterator[tuple[int, str]]:
    inside = False
    while at < len(text):
        char = text[at]
        if inside and char == "\\":
            at += 2
            continue
        if char == '"':
            inside = not inside
        elif not inside:
            yield at, char
        at += 1
