"""torch.export -> Relax.

Everything that depends on parameters alone is computed here, once, by PyTorch itself: the signs and
scales of binary weights reach the compiler as PyTorch's own numbers, whatever code made them.
"""

from __future__ import annotations

import operator
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tvm
from torch import fx, nn
from tvm.relax.frontend.torch import from_exported_program

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.byte_input import NETWORK, ByteInput

_LAYER_TARGETS = ("convolution", "addmm", "mm", "matmul", "bmm", "baddbmm", "linear")


@dataclass(frozen=True)
class Imported:
    """What the front end hands on.

    Attributes:
        mod: Relax module, one function ``main``, plain ops, NCHW as PyTorch has it, batch symbolic
            unless it was fixed.
        layer_names: module path of every convolution and matrix product, in the order of ``main``.
        input_names: names of the inputs of ``main``.
    """

    mod: tvm.IRModule
    layer_names: tuple[str, ...]
    input_names: tuple[str, ...]


def import_torch(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], *, max_batch: int, dynamic: bool
) -> Imported:
    """Export ``module`` in eval mode and import it.

    Args:
        module: any PyTorch module that torch.export accepts.
        example_inputs: one tensor per input, float32 or uint8, batch first.
        max_batch: largest batch that the compiled module accepts.
        dynamic: batch is symbolic (1..max_batch); else it is that of ``example_inputs``.

    Raises:
        ImportModelError: the module cannot be exported, or uses an operator that Relax lacks.
    """
    folded = trace_and_fold(module, example_inputs, max_batch=max_batch, dynamic=dynamic)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch.export
            program = _export(folded, example_inputs, max_batch, dynamic).run_decompositions()
            mod = from_exported_program(
                program, run_ep_decomposition=False, unwrap_unit_return_tuple=True
            )
    except (LookupError, NotImplementedError, RuntimeError, ValueError, AssertionError) as error:
        raise ImportModelError(
            f"the exported module uses something the Relax importer cannot take "
            f"({_one_line(error)}): rewrite that part with plain convolutions, products, pools and "
            "elementwise operators"
        ) from error
    names = tuple(str(param.name) for param in mod["main"].params)
    layers = _layer_names(program.graph)
    if isinstance(module, ByteInput):  # the layers keep the names that the user gave them
        layers = tuple(layer.removeprefix(f"{NETWORK}.") for layer in layers)
    return Imported(mod, layers, names)


def trace_and_fold(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], *, max_batch: int, dynamic: bool
) -> fx.GraphModule:
    """The module as a graph of ATen operators in which nothing constant is left to compute.

    This is what gets compiled, and what validation executes as the PyTorch reference.

    Raises:
        ImportModelError: the module cannot be exported.
    """
    _check_inputs(example_inputs)
    was_training = module.training
    module.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = _export(module, example_inputs, max_batch, dynamic)
            return _fold_constants(program.module(check_guards=False))
    finally:
        module.train(was_training)


def _check_inputs(example_inputs: Sequence[torch.Tensor]) -> None:
    if not example_inputs:
        raise ImportModelError("got no example input, but one tensor per input is needed")
    for index, tensor in enumerate(example_inputs):
        if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2:
            raise ImportModelError(
                f"example input {index} must be a tensor with a batch dimension, got "
                f"{tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor)}"
            )


def _export(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], max_batch: int, dynamic: bool
) -> torch.export.ExportedProgram:
    shapes: Any = None
    if dynamic and max_batch == 1:
        example_inputs = [_as_batch(tensor, 1) for tensor in example_inputs]
    elif dynamic:  # torch.export specialises on a batch of 1, so it is shown a batch of 2
        batch = torch.export.Dim("batch", min=1, max=max_batch)
        shapes = tuple({0: batch} for _ in example_inputs)
        example_inputs = [_as_batch(tensor, 2) for tensor in example_inputs]
    try:
        with torch.no_grad():
            return torch.export.export(module, tuple(example_inputs), dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many unrelated types
        raise ImportModelError(
            f"torch.export cannot export {type(module).__name__} ({_one_line(error)}): see that it "
            "exports by itself, with a dynamic batch or with dynamic_batch=False"
        ) from error


def _as_batch(tensor: torch.Tensor, size: int) -> torch.Tensor:
    return tensor[:1].expand(size, *tensor.shape[1:]).contiguous()


def _fold_constants(module: fx.GraphModule) -> fx.GraphModule:
    """Replace every node that depends on parameters only by its value."""
    graph = module.graph
    values: dict[fx.Node, torch.Tensor] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(module)
            if isinstance(value, torch.Tensor):
                values[node] = value.detach()
        elif node.op == "call_function" and node.all_input_nodes:
            if all(source in values for source in node.all_input_nodes):
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
                with torch.no_grad():
                    result = node.target(*args, **kwargs)
                if isinstance(result, torch.Tensor):
                    values[node] = result.detach()
    for count, node in enumerate(n for n in list(graph.nodes) if n in values):
        if node.op == "get_attr" or all(user in values for user in node.users):
            continue
        name = f"_folded_{count}"
        module.register_buffer(name, values[node].clone())
        with graph.inserting_before(node):
            replacement = graph.get_attr(name)
        node.replace_all_uses_with(replacement)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _layer_names(graph: fx.Graph) -> tuple[str, ...]:
    paths = []
    for node in graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target._schema.name.split("::")[-1] in _LAYER_TARGETS:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            path = next((p for p, _ in reversed(stack) if p), "") if stack else ""
            paths.append(path or str(node.name))
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        seen[path] += 1
        names.append(path if seen[path] == 1 else f"{path}#{seen[path]}")
    return tuple(names)


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
