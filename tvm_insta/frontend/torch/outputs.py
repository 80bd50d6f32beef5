"""Several outputs of a network as one tensor: what kernels, drivers and the validator see.

The elements of an image stand behind each other, output after output: ``[batch, elements]``.
Whoever loads an artefact gets the outputs in their own shapes again, as the manifest has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.torch.operators.insert import Inserter


@dataclass(frozen=True)
class Output:
    """One output of a network.

    Attributes:
        name: as the model has it, "output_1" and so on where it has none.
        shape: of one image, without the batch.
    """

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements of one image."""
        return math.prod(self.shape)


def join_outputs(graph: fx.GraphModule, names: Sequence[str] = ()) -> tuple[Output, ...]:
    """Let an exported graph return its outputs behind each other, in place.

    Args:
        graph: from `export_graph`.
        names: of the outputs, where the model has any.

    Returns:
        The outputs; none where there is one only, whose graph stays as it is.

    Raises:
        ImportModelError: outputs of several types, or without a leading batch.
    """
    end = graph.graph.output_node()
    results = _tensors(end)
    if len(results) < 2:
        return ()
    values = [result.meta["val"] for result in results]
    types = sorted({str(value.dtype).removeprefix("torch.") for value in values})
    if len(types) > 1:
        raise ImportModelError(
            f"the network returns tensors of the types {', '.join(types)}, but all outputs must "
            "have one type: cast them inside the network, or leave some out"
        )
    known = list(names) if len(names) == len(results) else []
    outputs, flat = [], []
    insert = Inserter(end)
    for index, (result, value) in enumerate(zip(results, values, strict=True)):
        shape = tuple(value.shape)
        if not shape or not all(isinstance(size, int) for size in shape[1:]):
            raise ImportModelError(
                f"output {index + 1} of the network has the shape {list(shape)}, but its first "
                "dimension must be the batch, and the others fixed numbers"
            )
        outputs.append(Output(known[index] if known else f"output_{index + 1}", shape[1:]))
        flat.append(insert.view(result, [insert.size(result, 0), outputs[-1].elements]))
    end.args = ((insert.call(torch.ops.aten.cat.default, flat, 1),),)
    graph.recompile()
    return tuple(outputs)


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """What a graph after `join_outputs` returns, of the outputs of the module."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], 1)


def _tensors(end: fx.Node) -> list[fx.Node]:
    (results,) = end.args
    found = list(results) if isinstance(results, (list, tuple)) else [results]
    return [each for each in found if isinstance(each, fx.Node)]
