"""Where a node of an exported graph comes from: the module, and the line of the user's code."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import fx

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_PACKAGE = Path(__file__).parents[2]
_TORCH = Path(torch.__file__).parent
_NETWORKS = _PACKAGE / "nn"


def module_path(node: fx.Node) -> str:
    """Path of the innermost named module whose forward made a node; "" for the network's own."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values()]
    return next((path for path in reversed(paths) if path and not path.startswith("_empty_")), "")


@functools.lru_cache(maxsize=4096)
def is_foreign(file: str, *, but_networks: bool = False) -> bool:
    """Whether a file is not the user's: PyTorch's, this package's, or generated code.

    Other libraries (torchvision, timm) are the user's: their networks are what is compiled.

    Args:
        file: as Python names it in a frame.
        but_networks: networks of this package (`tvm_insta.nn`) are taken for the user's.
    """
    if file.startswith("<"):
        return True
    path = Path(file)
    if but_networks and path.is_relative_to(_NETWORKS):
        return False
    return path.is_relative_to(_TORCH) or path.is_relative_to(_PACKAGE)


def user_frame(stack: str, *, but_networks: bool = False) -> tuple[str, int] | None:
    """File and line of the user's innermost frame in a printed stack, None where there is none."""
    own = [
        (match["file"], int(match["line"]))
        for match in _FRAME.finditer(stack)
        if not is_foreign(match["file"], but_networks=but_networks)
    ]
    return own[-1] if own else None


def running_line() -> str:
    """`` (net.py, line 12)``: the innermost line of the running program that is the user's."""
    frame: Any = sys._getframe(1)
    while frame is not None and is_foreign(frame.f_code.co_filename):
        frame = frame.f_back
    return "" if frame is None else f" ({frame.f_code.co_filename}, line {frame.f_lineno})"


def source_line(node: fx.Node) -> str:
    """File name and line of the network's code behind a node, "net.py:12"; "" where unknown."""
    frame = user_frame(str(node.meta.get("stack_trace") or ""), but_networks=True)
    return "" if frame is None else f"{Path(frame[0]).name}:{frame[1]}"
