"""The identity of layers: module path, and the line of the user's code."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from torch import fx

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_OURS = ("/torch/", "/site-packages/")


def module_path(node: fx.Node) -> str:
    """Path of the innermost module whose forward made a node; "" for the network's own."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    paths = [str(entry[0]) for entry in stack]
    return next((path for path in reversed(paths) if path and not path.startswith("_empty_")), "")


def source_line(node: fx.Node) -> str:
    """File name and line of the user's code behind a node, "net.py:12"; "" where unknown."""
    frames = _FRAME.findall(str(node.meta.get("stack_trace") or ""))
    own = [frame for frame in frames if not any(part in frame[0] for part in _OURS)]
    if not own:
        return ""
    file, line = own[-1]
    return f"{Path(file).name}:{line}"


class Names:
    """Unique names for the layers of one graph."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def of(self, node: fx.Node) -> str:
        """The module path, the node's name where there is none; a repeated one gets a number."""
        path = module_path(node) or str(node.name)
        self._seen[path] += 1
        return path if self._seen[path] == 1 else f"{path}#{self._seen[path]}"
