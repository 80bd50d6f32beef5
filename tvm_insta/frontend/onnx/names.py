"""ONNX names as Python identifiers: layers and inputs keep their names where Python allows them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

from torch import nn

_TAKEN = frozenset(dir(nn.Module()))


class Identifiers:
    """Gives out distinct identifiers.

    Args:
        taken: names that are not to be given out.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {*_TAKEN, *taken}
        self._last: dict[str, int] = {}

    def __call__(self, name: str, fallback: str) -> str:
        """``name`` as an identifier, ``fallback`` where nothing of it is left.

        "/stage1.0/conv/Conv" becomes "stage1_0__conv__Conv"; the second of a name gets "_2".
        """
        text = re.sub(r"[^0-9A-Za-z_]", "_", name.strip("/").replace("/", "__")).lstrip("_")
        text = text[:120] or fallback
        if text[0].isdigit():
            text = f"{fallback}_{text}"
        if keyword.iskeyword(text):
            text = f"{text}_"
        found, number = text, self._last.get(text, 1)
        while found in self._taken:
            number += 1
            found = f"{text}_{number}"
        self._last[text] = number
        self._taken.add(found)
        return found
