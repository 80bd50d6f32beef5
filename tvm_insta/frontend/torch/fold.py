"""Everything that depends on parameters alone is computed here, once, by PyTorch itself.

The signs and scales of binary weights reach the compiler as PyTorch's own numbers, whatever code
made them: folded values may come from parameters, from constants made in ``forward``
(``torch.ones(1)``, ``torch.arange(3)``), or from both.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import PARAMETERS, constant

_PYTHON = ("_operator", "math", "torch")
"""Modules of the functions that compute numbers from numbers, and take items of tuples."""

_LARGEST = 1 << 28
"""Elements of the largest constant that is computed: 1 GiB of float32."""


def fold_constants(module: fx.GraphModule) -> None:
    """Replace every node that depends on parameters only by its value, in place."""
    graph = module.graph
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            value = constant(node)
            if value is not None:
                values[node] = value
                node.meta.setdefault("val", value)
                node.meta[PARAMETERS] = (str(node.target),)
        elif node.op == "call_function" and _foldable(node, values):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
            names = [name for source in node.all_input_nodes for name in source.meta[PARAMETERS]]
            node.meta[PARAMETERS] = tuple(dict.fromkeys(names))
    for count, node in enumerate([n for n in graph.nodes if n in values]):
        value = values[node]
        if node.op == "get_attr" or not isinstance(value, torch.Tensor):
            continue
        if all(user in values for user in node.users):
            continue
        name = f"_folded_{count}"
        module.register_buffer(name, value.detach().clone())
        with graph.inserting_before(node):
            replacement = graph.get_attr(name)
        replacement.meta = dict(node.meta)
        node.replace_all_uses_with(replacement)
    graph.eliminate_dead_code()
    module.recompile()


def _foldable(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    if not all(source in values for source in node.all_input_nodes):
        return False
    if getattr(node.target, "__module__", "") in _PYTHON:
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded in node.target.tags or not _pure(node.target):
        return False
    made = node.meta.get("val")
    return not isinstance(made, torch.Tensor) or made.numel() <= _LARGEST


def _pure(target: torch._ops.OpOverload) -> bool:
    """Whether a call returns something and changes nothing."""
    return bool(target._schema.returns) and not target._schema.is_mutable
