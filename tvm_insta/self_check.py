"""A compiler that checks itself: the artefact against PyTorch, before it is handed over.

Where the target runs on this machine, the artefact is validated on the given example and on two
random inputs, by the rules of `tvm_insta.validate`. Where it does not, the imported network is
executed here and compared with PyTorch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from tvm_insta import runtime
from tvm_insta.errors import ValidationError
from tvm_insta.frontend import Imported, random_tensors
from tvm_insta.runtime import cpu
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.target import InstaTarget
from tvm_insta.validate import validate
from tvm_insta.validate.stages import compare_imported

PASSED = "passed"
IMPORTED_ONLY = "imported network only"
SKIPPED = "skipped"
_RANDOM = 2


@dataclass(frozen=True)
class Checked:
    """What the check of a compilation gave.

    Attributes:
        state: `PASSED`, `IMPORTED_ONLY` or `SKIPPED`; written into the manifest.
        seconds: what it took.
        notes: what could not be judged.
    """

    state: str = SKIPPED
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def check_batch(
    module: nn.Module, example_inputs: Sequence[torch.Tensor], *, max_batch: int, form: str
) -> None:
    """See that the images of a batch do not influence each other, and that each has its output.

    The same image is computed twice in batches of one size, beside other images: without influence
    the bytes are the same.

    Raises:
        ValidationError: they do, and the plain-C form, which computes image after image, would be
            another function; or the output's first dimension is not the batch.
    """
    if max_batch == 1:
        return
    batches = [_batch(example_inputs, seed) for seed in (1, 2)]
    for inputs, other in zip(batches[1], batches[0], strict=True):
        inputs[0] = other[0]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            first, second = (_first(module(*inputs)) for inputs in batches)
    finally:
        module.train(was_training)
    size = len(batches[0][0])
    if first.ndim == 0 or first.shape[0] != size:
        raise ValidationError(
            f"for a batch of {size} the network's output has the shape {list(first.shape)}, whose "
            "first dimension is not the batch: keep it (flatten(1), squeeze(-1), mean((2, 3))), or "
            "compile with max_batch=1"
        )
    equal = torch.equal(torch.nan_to_num(first[0]), torch.nan_to_num(second[0]))
    if form == "c" and not equal:
        raise ValidationError(
            "the images of a batch influence each other in this network (a mean over the batch, "
            "batch norm without statistics), but the plain-C form computes image after image: use "
            "runtime vm, or compile with max_batch=1"
        )


def check_artefact(
    folder: Path,
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    imported: Imported,
    target: InstaTarget,
    manifest: Manifest,
) -> Checked:
    """Compare what was compiled with PyTorch.

    Args:
        folder: the artefact.
        module: the network, as it was imported.
        example_inputs: one tensor per input, batch first.
        imported: the front end's result.
        target: of the compilation.
        manifest: of the artefact.

    Raises:
        ValidationError: it does not compute what PyTorch computes; the message names the first
            tensor that differs.
    """
    started = time.perf_counter()
    inputs = _inputs(example_inputs)
    runs_here = target.kind == "llvm" and target.is_native and not cpu.missing(manifest.needs)
    if not runs_here:
        compare_imported(imported.mod, module, inputs)
        return Checked(IMPORTED_ONLY, time.perf_counter() - started)
    artefact = runtime.load(folder)
    findings = validate(artefact, module, inputs, graph=imported.reference)
    failures = findings.failures()
    if failures:
        where = place_of(imported.reference, findings.first_failing)
        raise ValidationError(
            f"the compiled network does not compute what PyTorch computes{where}: {failures[0]}; "
            "this is a fault of the compiler: report it, or skip the check (check=False, "
            "--no-check)"
        )
    return Checked(PASSED, time.perf_counter() - started, tuple(findings.not_judged))


def place_of(graph: fx.GraphModule, name: str | None) -> str:
    """Where in the user's network a tensor is computed, as part of a sentence."""
    from tvm_insta.frontend.torch.names import module_path, source_line

    for node in graph.graph.nodes:
        if node.name == name:
            parts = [part for part in (module_path(node), source_line(node)) if part]
            return f" (first seen at {node.name}{', in ' if parts else ''}{', '.join(parts)})"
    return ""


def _inputs(example_inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    kinds = [((_RANDOM, *tensor.shape[1:]), tensor.dtype) for tensor in example_inputs]
    pairs = zip(example_inputs, random_tensors(kinds, seed=1), strict=True)
    return [torch.cat([example[:1], drawn]) for example, drawn in pairs]


def _batch(example_inputs: Sequence[torch.Tensor], seed: int) -> list[torch.Tensor]:
    kinds = [((3, *tensor.shape[1:]), tensor.dtype) for tensor in example_inputs]
    return random_tensors(kinds, seed=seed)


def _first(output: Any) -> torch.Tensor:
    while isinstance(output, (tuple, list)):
        output = output[0]
    assert isinstance(output, torch.Tensor)
    return output
