"""Inserting calls into an exported graph: each with its fake value and the place it came from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

KEPT = ("nn_module_stack", "stack_trace", "tvm_insta_source")
"""Meta data that a new node takes over from the node it stands in for."""


def name_of(node: Any) -> str:
    """``"aten.add.Tensor"``; "" for anything but a call of an operator."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return ""
    return str(node.target) if isinstance(node.target, torch._ops.OpOverload) else ""


def is_tensor(node: Any) -> bool:
    """Whether a node's value is a tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def constant(node: Any) -> torch.Tensor | None:
    """The value of a parameter or buffer, None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value = operator.attrgetter(str(node.target))(node.graph.owning_module)
    return value.detach() if isinstance(value, torch.Tensor) else None


class Inserter:
    """Inserts nodes in front of one node.

    Attributes:
        before: the node in front of which they are inserted.
    """

    def __init__(self, before: fx.Node) -> None:
        self.before = before
        self.graph = before.graph

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Insert a call; its value is computed on fake tensors."""
        with self.graph.inserting_before(self.before):
            node = self.graph.call_function(target, args, kwargs)
        node.meta = {key: self.before.meta[key] for key in KEPT if key in self.before.meta}
        fakes = fx.map_arg((args, kwargs), lambda source: source.meta["val"])
        with self._mode(), torch.no_grad():
            node.meta["val"] = target(*fakes[0], **fakes[1])
        return node

    def constant(self, value: torch.Tensor, hint: str) -> fx.Node:
        """Insert a constant of the module."""
        module = self.graph.owning_module
        assert module is not None
        number = 0
        while hasattr(module, f"_{hint}_{number}"):
            number += 1
        module.register_buffer(f"_{hint}_{number}", value.detach().clone())
        with self.graph.inserting_before(self.before):
            node = self.graph.get_attr(f"_{hint}_{number}")
        node.meta["val"] = self._mode().from_tensor(value.detach(), static_shapes=True)
        return node

    def size(self, source: fx.Node, axis: int) -> Any:
        """Size of a dimension: an int, or a node where it depends on the batch."""
        size = source.meta["val"].shape[axis]
        return (
            size if isinstance(size, int) else self.call(torch.ops.aten.sym_size.int, source, axis)
        )

    def sizes(self, source: fx.Node) -> list[Any]:
        """All sizes, as `size`."""
        return [self.size(source, axis) for axis in range(source.meta["val"].ndim)]

    def view(self, source: fx.Node, shape: Sequence[Any]) -> fx.Node:
        """Insert a reshape."""
        return self.call(torch.ops.aten.reshape.default, source, list(shape))

    def _mode(self) -> Any:
        for node in self.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch._subclasses.FakeTensor):
                return value.fake_mode
        raise AssertionError("an exported graph holds fake tensors")


def replace(node: fx.Node, by: Any) -> None:
    """Let all readers of a node read another one; the node goes."""
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
