"""ATen -> ONNX: the table of operators of a traced graph, and what its functions share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.write.graph_writer import GraphWriter, value_of

Rule = Callable[[GraphWriter, fx.Node], str]
RULES: dict[str, Rule] = {}
"""By the name of the ATen operator without its overload."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function under the names of ATen operators."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of a node by the names of its schema, with defaults."""
    schema = node.target._schema  # type: ignore[union-attr]
    found = {each.name: each.default_value for each in schema.arguments}
    found.update(zip([each.name for each in schema.arguments], node.args, strict=False))
    found.update(node.kwargs)
    return found


def dtype_of(node: fx.Node) -> torch.dtype:
    """The type of a node's result."""
    found = value_of(node)
    assert isinstance(found, torch.Tensor)
    return found.dtype


def rank_of(node: fx.Node) -> int:
    """The number of dimensions of a node's result."""
    return int(value_of(node).ndim)


def known_shape(node: fx.Node) -> list[int]:
    """The shape of a result for a Reshape: -1 for the batch.

    Raises:
        ImportModelError: more than one dimension depends on the batch.
    """
    shape = [size if isinstance(size, int) else -1 for size in value_of(node).shape]
    if shape.count(-1) > 1:
        raise ImportModelError(f"{node.name}: two dimensions of a shape depend on the batch")
    return shape


def pair(value: Any, rank: int) -> list[int]:
    """One number per image dimension."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * rank if len(numbers) == 1 else numbers
