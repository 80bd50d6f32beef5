"""What every compilation ends with: what was compiled against PyTorch, by the validator's rules."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tvm
from torch import fx, nn
from tvm import relax

from tvm_insta import cpu_emulator, runtime
from tvm_insta.errors import ValidationError
from tvm_insta.frontend import Imported, as_arrays, joined
from tvm_insta.runtime import cpu, devices
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.validate import eager, validate
from tvm_insta.validate.batch import integers_below
from tvm_insta.validate.findings import DARK, LOGITS
from tvm_insta.validate.graph import Graph
from tvm_insta.validate.rounding import distance

PASSED = "passed"
IMPORTED_ONLY = "imported network only"
NOT_JUDGED = "not judged"
SKIPPED = "skipped"

_ANYWAY = "or compile it all the same with check=False (--no-check)"
_ROUNDING = 1e-6
"""How far PyTorch's answer to an image may be from that in a batch, relative to the largest, where
images are independent: it adds in another order there."""
_OTHER_NETWORK, _IMAGES = 0.1, 2
"""A difference of the output, relative to the largest, that no few flips make, and in how many
images: what rounding alone explains is then decided by rounding in PyTorch, too."""


@dataclass(frozen=True)
class Checked:
    """What the check of a compilation gave.

    Attributes:
        state: `PASSED`, `IMPORTED_ONLY` where the artefact neither runs here nor is emulated,
            `NOT_JUDGED` or `SKIPPED`; written into the manifest.
        seconds: what it took.
        notes: what could not be judged.
    """

    state: str = SKIPPED
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """What the manifest says of the check."""
        known: dict[str, Any] = {"checked": self.state, "check_seconds": round(self.seconds, 2)}
        return {**known, "check_notes": list(self.notes)} if self.notes else known


def check_compiled(
    folder: Path,
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    imported: Imported,
    manifest: Manifest,
    samples: Sequence[Any] = (),
) -> Checked:
    """Compare what was compiled with PyTorch.

    Args:
        folder: the artefact.
        module: the network, as it was imported.
        example_inputs: one tensor per input, batch first.
        imported: the front end's result.
        manifest: of the artefact.
        samples: what int8 layers were calibrated with, an array per input; empty without.

    Raises:
        ValidationError: it does not compute what PyTorch computes; the message names the first
            tensor that differs, and the layers that compute it.
    """
    inputs = inputs_for(example_inputs, [torch.from_numpy(each) for each in samples])
    calibrated, started = bool(samples), time.perf_counter()
    if runs_here(manifest):
        # One thread of its own: the pool of the caller's thread is left as it was.
        loaded = runtime.load(folder, threads=1)
    elif cpu_emulator.reason_against(manifest) is None:
        loaded = cpu_emulator.load(folder)
        inputs = [each[::2][:2] for each in inputs]  # emulation is slow: the first and the third
    else:
        return check_imported(imported.mod, module, inputs, imported.reference)
    checked = check_artefact(loaded, module, inputs, imported.reference, calibrated=calibrated)
    return replace(checked, seconds=time.perf_counter() - started)


def inputs_for(
    example_inputs: Sequence[torch.Tensor], samples: Sequence[torch.Tensor] = ()
) -> list[torch.Tensor]:
    """The inputs of the check, one tensor per input, ``[images, ...]``.

    The first image of the example, one of random numbers, one of zeros, and one whose numbers are
    multiples of 1/2, a quarter of them 0: comparisons are wrong first where both sides are equal.
    Where there are `samples` (calibration images), three of them are taken: int8 clips others.
    """
    if samples:
        return [each[:3].to(own.dtype) for each, own in zip(samples, example_inputs, strict=True)]
    found = []
    for index, example in enumerate(example_inputs):
        own = example[:1]
        generator = torch.Generator().manual_seed(index)
        if own.is_floating_point():
            normal = torch.randn(own.shape, generator=generator).to(own.dtype)
            ties = (torch.randn(own.shape, generator=generator) * 1.5).round().to(own.dtype) / 2
        else:
            high = integers_below(example)
            normal = torch.randint(0, high, own.shape, generator=generator).to(own.dtype)
            ties = (normal * (normal % 2)).to(own.dtype)  # of truths they are integers
        rows = [own, normal, ties]
        if bool((own != 0).any()):
            rows.append(torch.zeros_like(own))
        found.append(torch.cat(rows))
    return found


def check_artefact(
    loaded: runtime.Module,
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    graph: fx.GraphModule,
    *,
    calibrated: bool = False,
) -> Checked:
    """Compare an artefact that runs on this machine, or under an emulator, with PyTorch.

    Args:
        loaded: the artefact.
        module: what was compiled.
        inputs: from `inputs_for`.
        graph: the exported graph.
        calibrated: the inputs are those that int8 layers were calibrated with.

    Raises:
        ValidationError: they differ; the message names the first layer.
    """
    started = time.perf_counter()
    findings = validate(loaded, module, inputs, graph=graph, calibrated=calibrated)
    failures = findings.failures()
    if failures:
        raise ValidationError(
            f"the compiled network is not what PyTorch computes: {failures[0]}; nothing was "
            "written: please report it, or compile with check=False (--no-check) to look into it"
        )
    if findings.undecided:
        raise ValidationError(f"{findings.undecided[0]}; {_ANYWAY}")
    if loaded.device is devices.Device.CPU:  # emulated forms run image after image
        _check_whole_batch(loaded, module, inputs)
    state = NOT_JUDGED if findings.not_judged else PASSED
    return Checked(state, time.perf_counter() - started, tuple(findings.not_judged))


def check_imported(
    mod: tvm.IRModule, module: nn.Module, inputs: Sequence[torch.Tensor], graph: fx.GraphModule
) -> Checked:
    """Compare the imported module, executed on this machine, with PyTorch.

    Args:
        mod: Relax module of plain and of our operators, batch symbolic or 1.
        module: what is compiled.
        inputs: from `inputs_for`.
        graph: the exported graph.

    Raises:
        ValidationError: they differ.
    """
    started = time.perf_counter()
    machine = relax.VirtualMachine(tvm.compile(mod, target=tvm.target.Target("llvm")), tvm.cpu())
    reference = Graph(graph)
    others = 0
    images = [[tensor[index : index + 1] for tensor in inputs] for index in range(len(inputs[0]))]
    run = eager.Eager(module)
    wanted = [joined(run(image)) for image in images]
    most = max(eager.largest(each) for each in wanted)
    for image, expected in zip(images, wanted, strict=True):
        result = machine["main"](*map(tvm.runtime.tensor, as_arrays(image)))
        size = max(eager.largest(expected), DARK * most)
        difference = distance(torch.from_numpy(result.numpy()), expected) / size
        if difference > LOGITS and not eager.is_rounding(reference, image, difference):
            raise ValidationError(
                "the imported network is not what PyTorch computes: its output differs by "
                f"{difference:.2e} of the largest; nothing was written: please report it, or "
                "compile with check=False (--no-check) to look into it"
            )
        others += difference > _OTHER_NETWORK
    if others >= _IMAGES:
        raise ValidationError(
            f"the output differs by more than {_OTHER_NETWORK:.0%} in {others} of {len(inputs[0])} "
            "images, by rounding alone: PyTorch's own answer hangs on the order in which it adds "
            "(sums that cancel before a comparison); put a batch norm there, or multiply by the "
            f"scale behind the layer instead of in its weights, {_ANYWAY}"
        )
    return Checked(IMPORTED_ONLY, time.perf_counter() - started)


def runs_here(manifest: Manifest) -> bool:
    """Whether this machine can load an artefact."""
    if '"cuda"' in manifest.target or not manifest.library.endswith(".so"):
        return False
    return manifest.machine == cpu.machine() and not cpu.missing(manifest.needs)


def _check_whole_batch(
    loaded: runtime.Module, module: nn.Module, inputs: Sequence[torch.Tensor]
) -> None:
    """All images in one call: each row has the bytes of the image alone, at any position.

    A network that computes one image from another, in PyTorch too, is compared with PyTorch.
    """
    count = min(len(inputs[0]), loaded.manifest.max_batch)
    if count < 2:
        return
    batch = [tensor[:count] for tensor in inputs]
    together = torch.from_numpy(loaded.run_joined(*as_arrays(batch)))
    images = [[tensor[index : index + 1] for tensor in batch] for index in range(count)]
    alone = [torch.from_numpy(loaded.run_joined(*as_arrays(image))) for image in images]
    other = [i for i in range(count) if not _same_bytes(together[i : i + 1], alone[i])]
    if not other:
        return
    pytorch = eager.Eager(module)
    expected = joined(pytorch(batch))
    for index in other:
        image = images[index]
        mixed = eager.relative(expected[index : index + 1], joined(pytorch(image)))
        if mixed <= _ROUNDING or eager.relative(together, expected) > LOGITS:
            raise ValidationError(
                f"image {index} of a batch of {count} gets another output than alone, unlike in "
                "PyTorch; nothing was written: please report it, or compile with max_batch=1"
            )


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.numpy().tobytes() == other.numpy().tobytes()
