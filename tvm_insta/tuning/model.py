"""The model runner: kernels for CUDA, ranked where there is no card.

Every candidate is compiled with nvcc, executed once on the emulated device and compared with the
default's bytes. Its figure is 1e-9 of the clocks that `cuda_model` makes of what one block was
counted to do. That ranks the choices of one kernel, and is no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tvm_insta.codegen.nvcc_compile import KernelResources
from tvm_insta.cuda_emulator import LaunchCounts
from tvm_insta.errors import TuneError
from tvm_insta.schedules import Tiles, back_end
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.cuda_cards import card_of
from tvm_insta.tuning.cuda_model import estimate
from tvm_insta.tuning.process import Worker, WorkerFailure
from tvm_insta.tuning.runner import (
    CandidateBuilder,
    Outcome,
    cores,
    reference_library,
    reference_path,
    refused,
)
from tvm_insta.tuning.tasks import Task

RUN_SECONDS = 120.0
"""For one execution: emulation of a large layer takes longer than any device does."""


class ModelRunner:
    """Models candidates on the emulated device, one after the other in one worker process.

    All cores build a batch; the worker has the last of them for itself.

    Args:
        target: kind "cuda".
        build_timeout: seconds for one build.
        run_timeout: seconds for one emulated execution.

    Raises:
        TuneError: the target is another, or there are no figures for its card.
    """

    name = "model"
    unit = "modelled clocks"

    def __init__(
        self, target: InstaTarget, *, build_timeout: float = 60.0, run_timeout: float = RUN_SECONDS
    ) -> None:
        if not back_end(target.tvm).device_code:
            raise TuneError(
                f"got runner model for {target.text!r}, but it models cards of CUDA only"
            )
        self.cpu = f"modelled: {card_of(target.mcpu).name}, {target.mcpu}"
        self.builder = CandidateBuilder(target, "library", timeout=build_timeout)
        self._worker = Worker(cores()[-1:])
        self._timeout = run_timeout

    def prepare(self, task: Task) -> None:
        """See `Runner.prepare`."""
        out = reference_path(self.builder, task)
        if out.exists():
            return
        library = reference_library(self.builder, task)
        answer = self._ask(task, {"op": "reference", "library": str(library), "out": str(out)})
        if "error" in answer:
            raise TuneError(f"the default schedule of {task.label} does not run: {answer['error']}")

    def measure(
        self, task: Task, candidates: Sequence[Tiles], repeats: int
    ) -> Iterator[tuple[Tiles, Outcome]]:
        """See `Runner.measure`; a model needs no repeats."""
        del repeats
        built = self.builder.build(task, candidates)
        for tiles, library in zip(candidates, built, strict=True):
            yield tiles, self._model(task, library)

    def _model(self, task: Task, library: Path | str) -> Outcome:
        if isinstance(library, str):
            return Outcome(error=library, device=self.cpu)
        reference = str(reference_path(self.builder, task))
        request = {"op": "model", "library": str(library), "reference": reference}
        answer = self._ask(task, request)
        if "error" in answer:
            return refused(answer, self.cpu)
        return Outcome((1e-9 * float(answer["clocks"]),), self.cpu)

    def _ask(self, task: Task, request: dict[str, Any]) -> dict[str, Any]:
        whole = {**request, "emulated": True}
        try:
            return self._worker.request(self.builder.request_of(task), whole, self._timeout)
        except WorkerFailure as failure:
            return {"error": str(failure)}

    def close(self) -> None:
        """See `Runner.close`."""
        self._worker.close()
        self.builder.close()


def modelled(
    arch: str,
    counts: Sequence[LaunchCounts],
    resources: Sequence[KernelResources],
    tensor_bytes: int,
) -> dict[str, Any]:
    """The modelled clocks of a call, and what bounds them.

    Args:
        arch: such as "sm_90".
        counts: of its launches.
        resources: of its kernels, as ptxas says.
        tensor_bytes: of its arguments.

    Raises:
        TuneError: a kernel spills registers, or a block does not fit the card.
    """
    card, taken = card_of(arch), {each.name: each for each in resources}
    spilt = [each.name for each in resources if each.spill_bytes]
    if spilt:
        raise TuneError(f"{spilt[0]} spills registers")
    found = [estimate(card, c, taken[c.kernel].registers, tensor_bytes) for c in counts]
    return {
        "clocks": sum(each.clocks for each in found),
        "limits": [each.limit.value for each in found],
    }
