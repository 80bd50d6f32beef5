"""PyTorch module in, Relax module out: the steps of the front end, in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from tvm_insta.frontend.byte_input import NETWORK, ByteInput
from tvm_insta.frontend.imported import Imported
from tvm_insta.frontend.torch.export import export_graph
from tvm_insta.frontend.torch.fold import fold_constants
from tvm_insta.frontend.torch.graph import SOURCE
from tvm_insta.frontend.torch.half import widen_halves
from tvm_insta.frontend.torch.levels.layers import Found, rewrite_layers
from tvm_insta.frontend.torch.normalise import normalise
from tvm_insta.frontend.torch.operators import prepare, sequences_to_images, transposed_to_plain
from tvm_insta.frontend.torch.outputs import join_outputs
from tvm_insta.frontend.torch.to_relax import to_relax


def import_torch(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    max_batch: int,
    dynamic: bool,
    sign_of_zero: str = "exact",
) -> Imported:
    """Export ``module`` in eval mode and import it.

    Args:
        module: any PyTorch module that torch.export accepts.
        example_inputs: one tensor per input, float32, half precision or uint8, batch first.
        max_batch: largest batch that the compiled module accepts.
        dynamic: batch is symbolic (1..max_batch); else it is that of ``example_inputs``.
        sign_of_zero: see `normalise`.

    Several outputs are joined, see `join_outputs`; ``output_names`` of the module names them.

    Raises:
        ImportModelError: the module cannot be exported, or uses an operator that is not supported.
    """
    graph = export_graph(module, example_inputs, max_batch=max_batch, dynamic=dynamic)
    outputs = join_outputs(graph, getattr(module, "output_names", ()))
    reference = _copy(graph)
    prefix = f"{NETWORK}." if isinstance(module, ByteInput) else ""
    found = rewrite(graph, prefix=prefix, sign_of_zero=sign_of_zero)
    prepare(graph)
    mod = to_relax(graph, max_batch=max_batch)
    names = tuple(str(param.name) for param in mod["main"].params)
    return Imported(mod, tuple(found.layers), found.sites, reference, names, outputs)


def rewrite(graph: fx.GraphModule, *, prefix: str = "", sign_of_zero: str = "exact") -> Found:
    """Rewrite an exported graph into the one that Relax imports, in place.

    Args:
        graph: from `export_graph`.
        prefix: is taken off the names of layers.
        sign_of_zero: see `normalise`.

    Returns:
        What is known of its layers and level tensors.

    Raises:
        ImportModelError: it uses an operator that is not supported.
    """
    for node in graph.graph.nodes:
        node.meta[SOURCE] = node.name
    fold_constants(graph)
    widen_halves(graph)
    normalise(graph, sign_of_zero=sign_of_zero)
    sequences_to_images(graph)
    transposed_to_plain(graph)
    return rewrite_layers(graph, prefix=prefix)


def _copy(graph: fx.GraphModule) -> fx.GraphModule:
    """The same graph over the same tensors."""
    nodes = fx.Graph()
    output = nodes.graph_copy(graph.graph, {})
    nodes.output(output)
    return fx.GraphModule(graph, nodes)


def trace_and_fold(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], *, max_batch: int, dynamic: bool
) -> fx.GraphModule:
    """The exported graph with its constants computed, in which nothing is recognised yet.

    Raises:
        ImportModelError: the module cannot be exported.
    """
    graph = export_graph(module, example_inputs, max_batch=max_batch, dynamic=dynamic)
    fold_constants(graph)
    return graph
