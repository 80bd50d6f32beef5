"""One sentence for what cannot be compiled: operator, module path, the user's line, the way out."""

from __future__ import annotations

import torch
from torch import fx

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.origin import module_path, user_frame

IN_FLOAT32 = (
    "call .float() on the module and on its inputs, or cast to float32 in front of that line"
)
"""What to do about a layer in another type."""


def refusal(node: fx.Node, what: str, instead: str) -> ImportModelError:
    """The error that says why a node cannot be compiled.

    Args:
        node: of an exported graph; its meta data tells the module and the line.
        what: what was got, after the operator's name: ``"with a symbolic dimension"``.
        instead: what to write in its place, an imperative.
    """
    got = f"{operator_name(node)} {what}".strip()
    return ImportModelError(f"{where(node)}uses {got}, which cannot be compiled: {instead}")


def operator_name(node: fx.Node) -> str:
    """``"torch.ops.aten.sort.default"`` as a user knows it: ``"sort"``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).split("::")[-1].lstrip("_")
    return str(getattr(target, "__name__", target))


def where(node: fx.Node) -> str:
    """``"layer3.0 (net.py, line 12) "``; "the module " where nothing is known."""
    path = module_path(node)
    line = user_line(node)
    subject = f"module {path!r}" if path else "the module"
    return f"{subject} ({line}) " if line else f"{subject} "


def user_line(node: fx.Node) -> str:
    """``"net.py, line 12"``: the innermost line outside of torch, "" where none is known."""
    return line_of(str(node.meta.get("stack_trace") or ""))


def line_of(stack: str) -> str:
    """The innermost line of a printed stack that lies neither in torch nor in this package."""
    frame = user_frame(stack)
    return "" if frame is None else f"{frame[0]}, line {frame[1]}"
