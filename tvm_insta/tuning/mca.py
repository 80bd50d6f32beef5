"""The mca runner: cycles that llvm-mca models for the hot loop, for CPUs that are not here.

A figure is 1e-9 of the cycles of one call if its hot loop did all the multiply-accumulates and all
data were in the first-level cache. The epilogue, the loops around and the caches are not modelled:
it is good for comparing inner loops on one CPU, and no time.

Outputs are checked too: under QEMU where the CPU's code runs there, which some kernels need, for
they name instructions. Else the same schedule is compiled for this machine: that shows that the
schedule is right, not that the other CPU's code is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from tvm_insta.errors import ToolchainError, TuneError
from tvm_insta.schedules import Tiles
from tvm_insta.target import InstaTarget, parse
from tvm_insta.tuning import llvm_mca
from tvm_insta.tuning.assembly import Loop, hot_loop
from tvm_insta.tuning.icount import IcountRunner
from tvm_insta.tuning.runner import CandidateBuilder, LocalRunner, Outcome, Runner
from tvm_insta.tuning.tasks import Task


class McaRunner:
    """Models the hot loop with llvm-mca.

    Args:
        target: names its CPU with -mcpu.
        build_timeout: seconds for one build.
        run_timeout: seconds for the check of the outputs.

    Raises:
        TuneError: llvm-mca is not here, or does not know the CPU.
    """

    name = "mca"
    unit = "cycles"

    def __init__(
        self, target: InstaTarget, *, build_timeout: float = 60.0, run_timeout: float = 30.0
    ) -> None:
        path = llvm_mca.find()
        if path is None:
            raise TuneError(
                "runner mca needs llvm-mca, which is not here: install LLVM's tools (package llvm "
                "on Debian)"
            )
        if not target.mcpu:
            raise TuneError(
                f"runner mca models one CPU, but {target.text!r} names none: add -mcpu=NAME"
            )
        self.cpu = f"{Path(path).name} -mcpu={target.mcpu}"
        self._path, self._target = path, target
        self._cycles(Loop(("nop",), 1))
        self.builder = CandidateBuilder(target, "assembly", timeout=build_timeout)
        try:
            self._check = _checker(target, build_timeout, run_timeout)
        except BaseException:
            self.builder.close()
            raise

    def prepare(self, task: Task) -> None:
        """See `Runner.prepare`."""
        self._check.prepare(task)

    def measure(
        self, task: Task, candidates: Sequence[Tiles], repeats: int
    ) -> Iterator[tuple[Tiles, Outcome]]:
        """See `Runner.measure`; a model needs no repeats."""
        del repeats
        built = self.builder.build(task, candidates)
        checked = dict(self._check.measure(task, candidates, 1))
        for tiles, assembly in zip(candidates, built, strict=True):
            if isinstance(assembly, str):
                yield tiles, Outcome(error=assembly, device=self.cpu)
            elif checked[tiles].error:
                yield tiles, dataclasses.replace(checked[tiles], device=self.cpu)
            else:
                yield tiles, self._model(task, assembly)

    def _model(self, task: Task, assembly: Path) -> Outcome:
        try:
            loop = hot_loop(assembly.read_text(encoding="utf-8"), task.rule)
            cycles = self._cycles(loop) * (task.macs or 1) / loop.macs
        except TuneError as error:
            return Outcome(error=f"model: {error}", device=self.cpu)
        return Outcome((1e-9 * cycles,), self.cpu)

    def _cycles(self, loop: Loop) -> float:
        """Modelled cycles of one iteration."""
        try:
            return llvm_mca.cycles(self._path, self._target, loop)
        except ToolchainError as error:
            raise TuneError(str(error)) from error

    def close(self) -> None:
        """See `Runner.close`."""
        self._check.close()
        self.builder.close()


def _checker(target: InstaTarget, build_timeout: float, run_timeout: float) -> Runner:
    """What runs the candidates to check their outputs."""
    try:
        return IcountRunner(target, build_timeout=build_timeout, run_timeout=run_timeout)
    except (TuneError, ToolchainError):  # no emulator, no linker
        host = parse("llvm")
        return LocalRunner(host, build_timeout=build_timeout, run_timeout=run_timeout)
