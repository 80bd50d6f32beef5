"""ONNX names as Python identifiers: layers and inputs keep their names where Python allows them."""

from __future__ import annotations

import keyword
import re
from collections.abc import Container

from torch import nn

_TAKEN = frozenset(dir(nn.Module()))


def identifier(name: str, taken: Container[str], fallback: str) -> str:
    """``name`` as a valid attribute name that is not ``taken``.

    "/stage1.0/conv/Conv" becomes "stage1_0__conv__Conv".
    """
    text = re.sub(r"[^0-9A-Za-z_]", "_", name.strip("/").replace("/", "__")).lstrip("_")
    text = text[:120] or fallback
    if text[0].isdigit():
        text = f"{fallback}_{text}"
    if keyword.iskeyword(text) or text in _TAKEN:
        text = f"{text}_"
    found, number = text, 1
    while found in taken:
        number += 1
        found = f"{text}_{number}"
    return found
