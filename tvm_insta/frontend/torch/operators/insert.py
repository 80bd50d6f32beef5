"""Inserting several calls in front of a node, and putting one in the node's place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import SOURCE, buffer, call


class Inserter:
    """Inserts nodes in front of one node, with its module path and line.

    Attributes:
        before: the node in front of which they are inserted.
    """

    def __init__(self, before: fx.Node) -> None:
        self.before = before

    def call(self, target: Callable[..., Any], *args: Any) -> fx.Node:
        """Insert a call; its value is computed on fake tensors."""
        return call(self.before, target, args)

    def constant(self, value: torch.Tensor, hint: str, *, source: fx.Node | None = None) -> fx.Node:
        """Insert a constant of the module, see `buffer`."""
        return buffer(self.before, value, hint, source=source)

    def size(self, source: fx.Node, axis: int) -> Any:
        """Size of a dimension: an int, or a node where it depends on the batch."""
        size = source.meta["val"].shape[axis]
        if isinstance(size, int):
            return size
        return self.call(torch.ops.aten.sym_size.int, source, axis)

    def sizes(self, source: fx.Node) -> list[Any]:
        """All sizes, as `size`."""
        return [self.size(source, axis) for axis in range(source.meta["val"].ndim)]

    def view(self, source: fx.Node, shape: Sequence[Any]) -> fx.Node:
        """Insert a reshape."""
        return self.call(torch.ops.aten.reshape.default, source, list(shape))


def replace(node: fx.Node, by: fx.Node) -> None:
    """Let all readers of a node read another one that has its value; the node goes."""
    by.meta[SOURCE] = node.meta.get(SOURCE, "")
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
