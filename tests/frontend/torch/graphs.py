"""Graphs as the passes of the front end see them: exported, folded and normalised."""

from __future__ import annotations

import torch
from torch import fx, nn

from tvm_insta.frontend import export_graph
from tvm_insta.frontend.torch.fold import fold_constants
from tvm_insta.frontend.torch.graph import SOURCE
from tvm_insta.frontend.torch.normalise import normalise


class Network(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def exported(module, *inputs, folded=True, **options) -> fx.GraphModule:
    """The graph of a module or function; with ``folded``, also folded and normalised."""
    if not isinstance(module, nn.Module):
        module = Network(module)
    graph = export_graph(module, inputs, max_batch=4, dynamic=True)
    if folded:
        for node in graph.graph.nodes:
            node.meta[SOURCE] = node.name
        fold_constants(graph)
        normalise(graph, **options)
    return graph


def results(graph: fx.GraphModule) -> list[fx.Node]:
    """The nodes that a graph returns."""
    (returned,) = next(node for node in graph.graph.nodes if node.op == "output").args
    return list(returned)


def operators(graph: fx.GraphModule) -> list[str]:
    """Operators in order, ``"aten.add.Tensor"``."""
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def values(graph: fx.GraphModule, *inputs: torch.Tensor) -> dict[fx.Node, torch.Tensor]:
    """What every node gives, for any batch."""
    interpreter = fx.Interpreter(graph, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*inputs)
    return dict(interpreter.env)


def run(graph: fx.GraphModule, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Execute a graph by PyTorch."""
    with torch.no_grad():
        return list(graph(*inputs))
