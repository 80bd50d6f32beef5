"""The PyTorch side of validation: the exported graph, executed with the artefact's bits.

Nothing of the compiler's analysis is used but names: which node's value a kernel compares, and
which node's value it packs. What the values must be, PyTorch's own operators say. So every
activation of the artefact is compared with PyTorch's for the same earlier bits, and a flipped bit
cannot hide behind those it causes later.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

Override = Callable[["Replay", fx.Node, torch.Tensor], torch.Tensor]
"""Given a node and PyTorch's value of it, the value to go on with."""

_SUMS = ("convolution", "linear", "matmul", "addmm", "mm", "bmm", "mean", "sum", "var", "einsum")


class Replay:
    """Executes a graph from `frontend.export_graph`.

    Attributes:
        values: of the nodes, in the last run.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.nodes = {node.name: node for node in graph.graph.nodes}
        self.values: dict[fx.Node, Any] = {}

    def run(
        self,
        inputs: Sequence[torch.Tensor],
        overrides: Mapping[str, Override] | None = None,
        *,
        noise: float = 0.0,
        seed: int = 0,
    ) -> torch.Tensor:
        """Execute the network.

        Args:
            inputs: one tensor per input, batch first.
            overrides: by the name of a node; called in the order of the graph.
            noise: the results of sums are moved by random numbers of this size, relative to the
                root mean square of the result: how rounding in another order would move them.
            seed: of the noise.

        Returns:
            The network's (first) output.
        """
        self.values = {}
        given = iter(inputs)
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for node in self.graph.graph.nodes:
                if node.op == "output":
                    return self._output(node)
                value = next(given) if node.op == "placeholder" else self._execute(node)
                if noise and _is_sum(node) and isinstance(value, torch.Tensor):
                    size = noise * rms(value)
                    value = value + size * torch.randn(value.shape, generator=chance)
                if overrides and node.name in overrides:
                    value = overrides[node.name](self, node, value)
                self.values[node] = value
        raise AssertionError("a graph has an output")

    def moved(
        self, result: fx.Node, shifts: Mapping[fx.Node, torch.Tensor | float]
    ) -> torch.Tensor:
        """The value of a node if some earlier nodes were moved by the given amounts.

        Args:
            result: a node whose operands have been executed.
            shifts: what is added to the value of each of these nodes.
        """
        local: dict[fx.Node, Any] = {
            root: self.values[root] + shift for root, shift in shifts.items()
        }
        for node in self._between(set(shifts), result):
            local[node] = self._execute(node, local)
        found: torch.Tensor = local[result]
        return found

    def _between(self, roots: set[fx.Node], result: fx.Node) -> list[fx.Node]:
        """The nodes that depend on a root and that the result depends on, in order."""
        needed: set[fx.Node] = set()
        todo = [result]
        while todo:
            node = todo.pop()
            if node in needed or node in roots:
                continue
            needed.add(node)
            todo += node.all_input_nodes
        found: list[fx.Node] = []
        depends = set(roots)
        for node in self.graph.graph.nodes:
            if node in needed and any(source in depends for source in node.all_input_nodes):
                depends.add(node)
                found.append(node)
        return found

    def _execute(self, node: fx.Node, local: Mapping[fx.Node, Any] | None = None) -> Any:
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.graph)

        def value(source: fx.Node) -> Any:
            return local[source] if local and source in local else self.values[source]

        args, kwargs = fx.map_arg((node.args, node.kwargs), value)
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def _output(self, node: fx.Node) -> torch.Tensor:
        result = fx.map_arg(node.args[0], lambda source: self.values[source])
        while isinstance(result, (tuple, list)):
            result = result[0]
        assert isinstance(result, torch.Tensor)
        return result


def rms(x: torch.Tensor) -> float:
    """Root mean square of the finite elements, at least 1e-30."""
    finite = x[torch.isfinite(x)].to(torch.float64)
    return max(float(finite.square().mean().sqrt()) if finite.numel() else 0.0, 1e-30)


def _is_sum(node: fx.Node) -> bool:
    """Whether a node adds up many numbers, in an order that is its own."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return str(node.target._schema.name).split("::")[-1] in _SUMS
