"""The PyTorch module itself: run as its user runs it, and left as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend import Snapshot, nearness
from tvm_insta.validate.graph import Graph
from tvm_insta.validate.rounding import distance, noise

_NOISE = 2.0**-20
"""Relative, on every operator: some times what float32 rounds, so that it turns at least the bits
that another order of sums turns."""

_NO_OBJECTS = (torch.Tensor, int, float, complex, str, bytes, type(None))
"""What a module may return, in tuples, lists, dictionaries and registered classes."""

_RUNS = 8
_TIMES = 4.0  # a handful of runs does not show the largest movement


class Eager:
    """The module as it is given, called any number of times.

    Its state is copied once and put back after every call: nothing that a call writes, attributes
    included, is seen by the next, or stays.

    Args:
        module: may be in training mode.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._before = module, Snapshot(module)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """What the module returns in eval mode, as a flat list of tensors.

        It gets copies of the inputs, which it may write into.
        """
        try:
            self._module.eval()
            with torch.no_grad():
                return call(self._module, inputs)
        finally:
            self._before.restore()


def call(module: nn.Module, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """One call, whose traces stay in the module; see `Eager`."""
    found = tree_leaves(module(*[tensor.clone() for tensor in inputs]))
    for item in found:
        if not isinstance(item, _NO_OBJECTS):
            raise ImportModelError(
                f"{type(module).__name__} returns an object of the class "
                f"{type(item).__qualname__}, into which nothing looks: return tensors, or tuples, "
                "lists and dictionaries of them; a dataclass may be given to "
                "torch.export.register_dataclass"
            )
    # Copies: what a network returns may be what its next call writes into.
    return [item.detach().clone() for item in found if isinstance(item, torch.Tensor)]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference relative to the largest finite element of `theirs`."""
    if ours.shape != theirs.shape:
        return float("inf")
    return distance(ours, theirs) / largest(theirs)


def largest(value: torch.Tensor) -> float:
    """The largest finite magnitude, at least 1e-30."""
    return max(nearness.largest(value), 1e-30)


def is_rounding(
    graph: Graph,
    image: Sequence[torch.Tensor],
    difference: float,
    part: Callable[[torch.Tensor], torch.Tensor] = lambda whole: whole,
    expected: torch.Tensor | None = None,
) -> bool:
    """Whether PyTorch's own output moves as much when every operator is moved by rounding.

    Args:
        graph: of the module.
        image: its inputs.
        difference: relative, of two outputs that run free.
        part: cuts the output in question out of all of them.
        expected: what the graph gives, that part of it; None where it is not known yet.
    """
    if expected is None:
        expected = part(graph.run(image)[graph.output][0])
    for seed in range(_RUNS):
        add = noise(seed, 1.0, {}, _NOISE)

        def change(node: Any, value: Any, add: Any = add) -> Any:
            return value if node in graph.constant else add(node, value)

        moved = part(graph.run(image, change)[graph.output][0])
        if _TIMES * relative(moved, expected) >= difference:
            return True
    return False
