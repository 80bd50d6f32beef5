"""torch.export: the graph of ATen operators that is compiled, and that the validator executes.

The names of its nodes are the identities of tensors: torch.export is deterministic, so whoever
exports the same module again finds the same names.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.exclusive import exclusive
from tvm_insta.frontend.nearness import is_near
from tvm_insta.frontend.torch.batch_numbers import settle_batch_numbers
from tvm_insta.frontend.torch.batch_trace import Sizes
from tvm_insta.frontend.torch.decompose import decompose
from tvm_insta.frontend.torch.export_checks import tracing
from tvm_insta.frontend.torch.export_errors import GUARDED, WRITTEN, export_error
from tvm_insta.frontend.torch.state import unchanged
from tvm_insta.frontend.torch.supposed import check_supposed
from tvm_insta.frontend.torch.value_refusals import refuse_numbers

_BATCHES = (2, 3, 7)
"""Batches, with the largest, for which a number that is always the same is taken for constant."""
_ROUNDING = 1e-3
"""Of the largest number. PyTorch adds in another order for other shapes: this is far more than that
changes, and far less than another number of the batch in the sums."""


@exclusive
def export_graph(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], *, max_batch: int, dynamic: bool
) -> fx.GraphModule:
    """Export a module in eval mode and bring it into core ATen operators.

    Args:
        module: any PyTorch module that torch.export accepts.
        example_inputs: one tensor per input, float32, half precision or uint8, batch first.
        max_batch: largest batch of the compiled module.
        dynamic: the batch is symbolic (1..max_batch); else it is that of ``example_inputs``.

    The module, and all that it keeps between calls, is left as it was. The graph computes what the
    module as it is given computes; it writes neither into its inputs nor into buffers.

    Raises:
        ImportModelError: the module cannot be exported.
    """
    check_inputs(example_inputs)
    if not dynamic or max_batch == 1:
        return _trace(module, example_inputs, max_batch, dynamic, None)
    batches = list(dict.fromkeys((*_BATCHES, max_batch)))
    sizes = [Sizes(batch, max_batch) for batch in batches]
    graph = _trace(module, example_inputs, max_batch, dynamic, sizes[0])
    others = []
    if sizes[0].fixed is not None:  # constants of the graph may be those of one batch
        others = [_trace(module, example_inputs, max_batch, dynamic, each) for each in sizes[1:]]
    else:  # symbols are evaluated, for one image, too
        batches.append(1)
    settle_batch_numbers(graph, batches, others, sizes[0].fixed or "")
    line = sizes[0].fixed if sizes[0].lone is None else sizes[0].lone
    if line is not None:  # torch.export is not shown a batch of one
        _check_single(module, graph, [_as_batch(each, 1) for each in example_inputs], line)
    return graph


def _check_single(
    module: nn.Module, graph: fx.GraphModule, image: Sequence[torch.Tensor], line: str
) -> None:
    """Whether what larger batches do is right for one image, too."""
    with unchanged(module):
        own = _tensors(module(*[tensor.clone() for tensor in image]))
        made = _tensors(graph(*[tensor.clone() for tensor in image]))
    if len(own) != len(made) or not all(map(_close, own, made)):
        raise ImportModelError(
            f"forward treats a batch of one in another way than larger ones{line}: let it decide "
            "on other sizes, or compile with max_batch=1"
        )


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two results are equal but for rounding: the same operators made them."""
    return one.dtype == other.dtype and is_near(one, other, _ROUNDING)


def _tensors(result: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]


def _trace(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    max_batch: int,
    dynamic: bool,
    sizes: Sizes | None,
) -> fx.GraphModule:
    """Export and decompose, once more with other buffers or guards where it cannot be done else."""
    prepare: Callable[[nn.Module], None] = _as_it_is
    deferred = False
    while True:
        with unchanged(module):
            prepare(module)
            try:
                program = export_program(
                    module,
                    example_inputs,
                    max_batch=max_batch,
                    dynamic=dynamic,
                    sizes=sizes,
                    deferred=deferred,
                )
                return decompose(program)
            except Exception as error:  # torch.export raises many unrelated types
                if WRITTEN in str(error) and prepare is _as_it_is:
                    prepare = _tensors_to_buffers
                elif GUARDED in str(error.__cause__) and not deferred:
                    deferred = True
                else:
                    raise export_error(module, error) from error


def _as_it_is(module: nn.Module) -> None:
    """Nothing is prepared."""


def _tensors_to_buffers(module: nn.Module) -> None:
    """Make buffers of tensors that are plain attributes: torch.export writes to buffers only."""
    for each in module.modules():
        for name, value in list(vars(each).items()):
            if isinstance(value, torch.Tensor):
                delattr(each, name)
                each.register_buffer(name, value, persistent=False)


def export_program(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    max_batch: int,
    dynamic: bool,
    sizes: Sizes | None = None,
    deferred: bool = False,
) -> torch.export.ExportedProgram:
    """Call torch.export.

    Args:
        module: in eval mode.
        example_inputs: as in `export_graph`.
        max_batch: as in `export_graph`.
        dynamic: as in `export_graph`.
        sizes: what forward makes of a symbolic batch; None where it may make nothing of it.
        deferred: see for one batch after another that it meets what is supposed of the batch.
            torch.export itself does so with symbols, and gives up on ``b * min(8, 8 * b) ==
            8 * b``, which it supposes where time steps are flattened into the batch and taken
            apart again.

    Raises:
        ImportModelError: the module cannot be exported.
    """
    check_parts(module)
    module = _that_is_called(module)
    shapes: Any = None
    if dynamic and max_batch == 1:
        example_inputs = [_as_batch(tensor, 1) for tensor in example_inputs]
    elif dynamic:  # torch.export specialises on a batch of 1, so it is shown a batch of 2
        shown = 2 if sizes is None else sizes.batch
        batch = torch.export.Dim("batch", min=1, max=max(max_batch, shown))
        shapes = _as_passed(module, [{0: batch} for _ in example_inputs])
        example_inputs = [_as_batch(tensor, shown) for tensor in example_inputs]
    try:
        with torch.no_grad(), warnings.catch_warnings(), tracing(module, sizes):
            warnings.simplefilter("ignore")  # deprecations inside torch.export
            program = torch.export.export(
                module,
                tuple(example_inputs),
                dynamic_shapes=shapes,
                prefer_deferred_runtime_asserts_over_guards=deferred,
            )
            refuse_numbers(program)
            if deferred:
                check_supposed(program, max_batch)
            return program
    except Exception as error:  # torch.export raises many unrelated types
        raise export_error(module, error) from error


def check_inputs(example_inputs: Sequence[torch.Tensor]) -> None:
    """See that there are example inputs, tensors with a batch dimension.

    Raises:
        ImportModelError: there are none, or one is something else.
    """
    if not example_inputs:
        raise ImportModelError("got no example input, but one tensor per input is needed")
    for index, tensor in enumerate(example_inputs):
        if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2:
            raise ImportModelError(
                f"example input {index} must be a tensor with a batch dimension, got "
                f"{tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor)}"
            )


_CONVERTED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
"""Packages of the modules that torch.ao.quantization.convert makes."""


def check_parts(module: nn.Module) -> None:
    """See that each part has its parameters, and is of a kind that PyTorch's tracing can enter.

    Raises:
        ImportModelError: a part is lazy and was never called, is TorchScript, or was converted by
            torch.ao.quantization.
    """
    for path, each in module.named_modules():
        if any(map(is_lazy, each.parameters(recurse=False))):
            raise ImportModelError(
                f"got {type(each).__name__} at {path!r}, whose parameters have no shape before its "
                "first call: load the checkpoint, or call the module once, before compiling it"
            )
        if isinstance(each, torch.jit.ScriptModule):
            name = getattr(each, "original_name", type(each).__name__)
            place = f" at {path!r}" if path else ""
            raise ImportModelError(
                f"got a TorchScript module{place} ({name}), which torch.export cannot export: "
                "compile the module that torch.jit.script or torch.jit.trace was given"
            )
        if type(each).__module__.startswith(_CONVERTED):
            raise ImportModelError(
                f"got {type(each).__name__} at {path!r}, which torch.ao.quantization converted to "
                "kernels of its own: compile the prepared module, its observers off, or the float "
                "module"
            )


def one_line(error: BaseException) -> str:
    """The first line of an exception's text, cut to 200 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _that_is_called(module: nn.Module) -> nn.Module:
    """A module whose forward torch.export calls: it interprets the graph of a `fx.GraphModule`.

    What stands for a traced module has the same parameters, buffers and submodules.
    """
    if not isinstance(module, fx.GraphModule):
        return module
    kind = type(type(module).__name__, (nn.Module,), {"forward": type(module).forward})
    plain: nn.Module = object.__new__(kind)
    plain.__dict__ = module.__dict__
    return plain


def _as_passed(module: nn.Module, values: Sequence[Any]) -> tuple[Any, ...]:
    """Values of positional arguments as torch.export wants them: those of ``*args`` as a tuple.

    Where nothing is left for ``*args``, it wants none.
    """
    named = 0
    for each in inspect.signature(module.forward).parameters.values():
        if each.kind is inspect.Parameter.VAR_POSITIONAL:
            rest = tuple(values[named:])
            return (*values[:named], rest) if rest else tuple(values)
        named += 1
    return tuple(values)


def _as_batch(tensor: torch.Tensor, size: int) -> torch.Tensor:
    return tensor[:1].expand(size, *tensor.shape[1:]).contiguous()
