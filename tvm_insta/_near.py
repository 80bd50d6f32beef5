"""The end of a sentence that lists what the user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def near(word: str, allowed: Iterable[str]) -> str:
    """` (did you mean a, b or c?)` with up to five names like `word`, or nothing."""
    by_key = {name.lower(): name for name in allowed}
    keys = difflib.get_close_matches(word.lower(), by_key, n=5, cutoff=0.6)
    # A name that holds the word, or the other way round, is near whatever its length.
    keys += sorted(k for k in by_key if k not in keys and len(word) > 1 and word.lower() in k)
    names = [by_key[key] for key in keys[:5]]
    if not names:
        return ""
    head, last = ", ".join(names[:-1]), names[-1]
    return f" (did you mean {head} or {last}?)" if head else f" (did you mean {last}?)"
