"""Wording shared by the messages of this package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from tvm_insta.errors import ModelError


def unknown(kind: str, got: object, allowed: Iterable[str]) -> ModelError:
    """Build the error for a name that is not in a list.

    Args:
        kind: What the name stands for, such as "model".
        got: The name as the user gave it.
        allowed: Every accepted name.

    Returns:
        A `ModelError` that names the near matches and the accepted names; the caller raises it.
    """
    names = list(allowed)
    near = difflib.get_close_matches(str(got), names, n=3, cutoff=0.5)
    hint = f" did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(map(repr, names)) if names else "none"
    return ModelError(f"unknown {kind} {got!r};{hint} allowed: {listed}")


def first_few(items: Iterable[str], limit: int = 3) -> str:
    """Name the first few of many items and say how many more there are.

    Args:
        items: What to list.
        limit: How many are named.

    Returns:
        Text such as "a, b, c and 4 more".
    """
    names = list(items)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def counted(count: int, noun: str) -> str:
    """Write a number of things, such as "1 tensor" or "3 tensors"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
