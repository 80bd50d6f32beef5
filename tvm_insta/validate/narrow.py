"""What layers in bf16 or int8 may change.

Such a layer rounds its input and its weights, by far more than float32 rounds. So PyTorch computes
it a second time from rounded operands, which shows how large the change is on this input; an
artefact may be off by some times that. Ranges of int8 come from calibration: an input beyond them
is clipped, so only inputs of the calibration are judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tvm_insta.errors import ArtefactError
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.validate.graph import Graph, Values, base_name, is_layer, paths

TIMES = 4.0
"""Of the rms of the change: a calibrated range is up to twice that of one image, weights are
rounded after scales were multiplied into them, and rounded operands round again at ties."""

_LARGEST_CODE = 127


def narrow_layers(graph: Graph, manifest: Manifest) -> dict[fx.Node, str]:
    """The nodes of layers that the artefact computes in "bf16" or "int8", with which.

    Raises:
        ArtefactError: the artefact may have some, and is of a version that did not say which.
    """
    floats = [layer for layer in manifest.layers if layer.kind == "float"]
    if manifest.options.get("stem", "fp32") != "fp32" and not all(x.compute_dtype for x in floats):
        raise ArtefactError(
            "the manifest does not say in which numbers each float layer computes, as earlier "
            "versions did not: compile the model again to validate it"
        )
    kinds = {
        layer.name.split("#")[0]: layer.compute_dtype
        for layer in manifest.layers
        if layer.compute_dtype not in ("", "fp32")
    }
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
        factors = factors_of(graph, node)
        rounded = list(args)
        for index, axis in ((factors.data, None), (factors.weight, factors.axis)):
            if isinstance(args[index], torch.Tensor) and args[index].ndim > 1:
                rounded[index] = _rounded(args[index], kind, axis)
        return tuple(rounded)

    return graph.evaluate(nodes, values, {}, operands=operands)[target]


@dataclass(frozen=True)
class Factors:
    """Which arguments a layer multiplies.

    Attributes:
        data: position of the activations.
        weight: position of the weight.
        axis: dimension of the weight that is the output channels.
    """

    data: int
    weight: int
    axis: int


def factors_of(graph: Graph, node: fx.Node) -> Factors:
    """The factors of a node that `is_layer`.

    A weight is `[O, C, ...]` in convolutions, `[C, O, ...]` in transposed ones, and `[O, C]` in
    `linear`. In products it is `[..., C, O]`, or `[..., O, C]` where it stands on the left.
    """
    name, args = base_name(node), node.args
    if name in ("convolution", "conv2d"):
        transposed = name == "convolution" and bool(args[6])
        return Factors(0, 1, 1 if transposed else 0)
    if name == "linear":
        return Factors(0, 1, 0)
    left = 1 if name in ("addmm", "baddbmm") else 0  # their bias stands in front
    if args[left] in graph.constant and args[left + 1] not in graph.constant:
        return Factors(left + 1, left, -2)
    return Factors(left, left + 1, -1)


def _rounded(value: torch.Tensor, kind: str, axis: int | None) -> torch.Tensor:
    """In bf16, or in int8 with a scale for the tensor, or for each place along `axis`."""
    if kind == "bf16":
        return value.to(torch.bfloat16).to(value.dtype)
    dims = [dim for dim in range(value.ndim) if axis is None or dim != axis % value.ndim]
    step = (value.abs().amax(dims, keepdim=True) / _LARGEST_CODE).clamp(min=1e-30)
    return (value / step).round() * step
