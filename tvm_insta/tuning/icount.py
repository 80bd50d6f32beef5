"""The icount runner: instructions that a kernel executes under QEMU, for CPUs that are not here.

A figure is 1e-9 of the instructions of one call: those of eleven calls (of a long kernel, three)
less those of one, divided by the calls between, so that neither start-up nor input counts. It is
the same on every machine and under any load. It is no time: a CPU may run many instructions a
cycle, or wait for memory. `-cpu` is the target's: an instruction that the target lacks ends the
program, and the candidate has failed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tvm_insta.cpu_emulator.emulator import EMULATORS
from tvm_insta.errors import TuneError
from tvm_insta.schedules import Tiles
from tvm_insta.target import InstaTarget
from tvm_insta.target.toolchain import find_linker
from tvm_insta.tuning.measure import WrongResultError, check, random_arrays
from tvm_insta.tuning.qemu import count_plugin
from tvm_insta.tuning.runner import SEED, CandidateBuilder, Outcome, cores, reference_library
from tvm_insta.tuning.tasks import Task

_CALLS, _CALLS_OF_LONG = 11, 3
_LONG = 20_000_000  # instructions, beside which those that vary from run to run are nothing


class IcountRunner:
    """Counts instructions under QEMU's user emulation.

    Args:
        target: an Arm or RISC-V target.
        build_timeout: seconds for one build.
        run_timeout: seconds for one emulated run.

    Raises:
        TuneError: there is no emulator for the target.
        ToolchainError: there is no linker for the target, or the emulator takes no plugin.
    """

    name = "icount"
    unit = "instructions"

    def __init__(
        self, target: InstaTarget, *, build_timeout: float = 60.0, run_timeout: float = 30.0
    ) -> None:
        emulator = EMULATORS.get(target.arch, "")
        path = shutil.which(emulator) if emulator else None
        if path is None:
            raise TuneError(
                f"runner icount needs {emulator or 'an emulator'} for {target.text!r}, which "
                "is not here: install QEMU's user emulation (package qemu-user on Debian), or "
                f"tune for one of {', '.join(EMULATORS)}"
            )
        find_linker(target)
        self._command = [path, "-cpu", target.mcpu or "max"]
        self.cpu = f"{emulator} -cpu {target.mcpu or 'max'}"
        self._timeout = run_timeout
        self.builder = CandidateBuilder(target, "program", timeout=build_timeout)
        self._pool = ThreadPoolExecutor(len(cores()))
        self._references: dict[str, list[bytes]] = {}
        try:
            self._plugin = count_plugin(path, self.builder.folder)
        except BaseException:
            self.close()
            raise

    def prepare(self, task: Task) -> None:
        """See `Runner.prepare`."""
        if task.key in self._references:
            return
        arrays = random_arrays(task.mod, SEED)
        self._input(task).write_bytes(b"".join(array.tobytes() for array in arrays))
        program = reference_library(self.builder, task)
        try:
            self._references[task.key] = self._run(task, program, 1)[1]
        except TuneError as error:
            raise TuneError(f"the default schedule of {task.label} does not run: {error}") from None

    def measure(
        self, task: Task, candidates: Sequence[Tiles], repeats: int
    ) -> Iterator[tuple[Tiles, Outcome]]:
        """See `Runner.measure`; a count needs no repeats."""
        del repeats
        built = self.builder.build(task, candidates)
        found = self._pool.map(lambda program: self._measure(task, program), built)
        yield from zip(candidates, found, strict=True)

    def _measure(self, task: Task, program: Path | str) -> Outcome:
        if isinstance(program, str):
            return Outcome(error=program)
        try:
            one, outputs = self._run(task, program, 1)
            check(outputs, self._references[task.key])
            calls = _CALLS if one < _LONG else _CALLS_OF_LONG
            many, _ = self._run(task, program, calls)
        except TuneError as error:
            wrong = isinstance(error, WrongResultError)
            return Outcome(error=f"run: {error}", device=self.cpu, wrong=wrong)
        return Outcome((1e-9 * (many - one) / (calls - 1),), self.cpu)

    def _run(self, task: Task, program: Path, calls: int) -> tuple[int, list[bytes]]:
        """Instructions of the whole program, and its outputs.

        Raises:
            TuneError: it fails, takes too long, or leaves no count or outputs.
        """
        count, out = (program.with_suffix(f".{calls}.{what}") for what in ("count", "out"))
        for left in (count, out):  # of an earlier run
            left.unlink(missing_ok=True)
        command = [
            *self._command,
            *("-plugin", f"{self._plugin},out={count}"),
            *(str(program), str(calls), str(self._input(task)), str(out)),
        ]
        try:
            # An empty environment: its size would move the stack, and the count with it.
            done = subprocess.run(
                command, capture_output=True, check=False, timeout=self._timeout, env={}
            )
        except subprocess.TimeoutExpired:
            raise TuneError(f"no end within {self._timeout:.0f} s") from None
        except OSError as error:
            raise TuneError(f"{self._command[0]} cannot be started ({error.strerror})") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise TuneError(f"exit code {done.returncode}{': ' + said[-1] if said else ''}")
        try:
            return int(count.read_text(encoding="utf-8")), [out.read_bytes()]
        except OSError as error:
            name = Path(error.filename).name
            raise TuneError(f"exit code 0, but {name} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise TuneError(f"exit code 0, but {count.name} holds no count") from error

    def _input(self, task: Task) -> Path:
        return self.builder.folder / f"{task.key}-input.bin"

    def close(self) -> None:
        """See `Runner.close`."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.builder.close()
