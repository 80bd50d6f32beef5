"""What layers in bf16 or int8 may change.

Such a layer rounds its input and its weights, by far more than float32 rounds. So PyTorch computes
it a second time from rounded operands, which shows how large the change is on this input; an
artefact may be off by some times that. Ranges of int8 come from calibration: an input beyond them
is clipped, so only inputs of the calibration are judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from tvm_insta.runtime.manifest import Manifest
from tvm_insta.validate.graph import Graph, Values, base_name, is_layer, paths

TIMES = 4.0
"""Of the rms of the change: a calibrated range is up to twice that of one image, weights are
rounded after scales were multiplied into them, and rounded operands round again at ties."""

_LARGEST_CODE = 127


def narrow_layers(graph: Graph, manifest: Manifest) -> dict[fx.Node, str]:
    """The nodes of layers that the artefact computes in "bf16" or "int8", with which."""
    kinds = {}
    for layer in manifest.layers:
        for kind in ("bf16", "int8"):
            if f"computed in {kind}" in layer.notes:
                kinds[layer.name.split("#")[0]] = kind
    found = {}
    for node in graph.nodes:
        if is_layer(node):
            for path in (*paths(node), *_owners(graph, node)):
                if path in kinds:
                    found[node] = kinds[path]
    return found


def _owners(graph: Graph, node: fx.Node) -> Iterator[str]:
    """Parameters that a layer's weights are made of, and their modules: they may name it."""
    pending = [each for each in node.all_input_nodes if each in graph.constant]
    while pending:
        each = pending.pop()
        pending += each.all_input_nodes
        if each.op == "get_attr":
            name = str(each.target).removeprefix("network.")
            yield name
            yield name.partition(".parametrizations.")[0]
            yield name.rpartition(".")[0]


def change_of(
    graph: Graph,
    values: Values,
    target: fx.Node,
    nodes: Sequence[fx.Node],
    kinds: Mapping[fx.Node, str],
) -> Any:
    """The value of `target` with the operands of narrow layers rounded."""

    def operands(node: fx.Node, args: tuple[Any, ...]) -> tuple[Any, ...]:
        kind = kinds.get(node)
        if kind is None:
            return args
        first = base_name(node) in ("addmm", "baddbmm")  # their bias stands in front
        return tuple(
            _rounded(arg, kind, per_row=index == 1)
            if isinstance(arg, torch.Tensor)
            and arg.ndim > 1
            and index in ((1, 2) if first else (0, 1))
            else arg
            for index, arg in enumerate(args)
        )

    return graph.evaluate(nodes, values, {}, operands=operands)[target]


def _rounded(value: torch.Tensor, kind: str, *, per_row: bool) -> torch.Tensor:
    if kind == "bf16":
        return value.to(torch.bfloat16).to(value.dtype)
    magnitude = value.abs()
    largest = magnitude.flatten(1).amax(1) if per_row else magnitude.max().reshape(1)
    step = (largest / _LARGEST_CODE).clamp(min=1e-30).reshape(-1, *(1 for _ in value.shape[1:]))
    return (value / step).round() * step
