"""What a sweep asks of a runner, and the runner of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from tvm_insta.errors import TuneError
from tvm_insta.schedules import Tiles, back_end
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.build import resources_path
from tvm_insta.tuning.machine import machine_of
from tvm_insta.tuning.measure import WrongResultError
from tvm_insta.tuning.process import Worker, WorkerFailure
from tvm_insta.tuning.records import to_numbers
from tvm_insta.tuning.tasks import Task
from tvm_insta.tuning.workload import outputs_of, to_json

SEED = 20230
"""Of the inputs: every candidate of a task computes with the same."""


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate.

    Attributes:
        run_secs: one figure per repeat in the runner's unit; empty if it failed.
        device: what measured it.
        error: why it failed, "" if it did not.
        wrong: it failed because its outputs are not the expected bytes.
    """

    run_secs: tuple[float, ...] = ()
    device: str = ""
    error: str = ""
    wrong: bool = False

    def __post_init__(self) -> None:
        """A candidate either failed or was measured."""
        if bool(self.run_secs) == bool(self.error):
            raise TuneError("an outcome has either figures or an error")


class Runner(Protocol):
    """Measures candidates. Every figure is that of a candidate whose outputs were checked."""

    name: str
    unit: str
    """"seconds", or 1e9 "instructions", "cycles" or "modelled clocks": what a figure counts."""

    cpu: str
    """What measures: figures of different ones cannot be compared."""

    def prepare(self, task: Task) -> None:
        """Make the outputs that every candidate is compared with.

        Raises:
            TuneError: the default schedule itself does not work.
        """

    def measure(
        self, task: Task, candidates: Sequence[Tiles], repeats: int
    ) -> Iterator[tuple[Tiles, Outcome]]:
        """Yield each candidate's outcome as soon as it is known, in any order."""

    def close(self) -> None:
        """Free processes and files."""


class CandidateBuilder:
    """Builds candidates in worker processes, several at once, and keeps what was built.

    Args:
        target: what to compile for.
        form: see `build.build`.
        threads: worker threads of the candidates.
        timeout: seconds for one build.
        workers: processes; None for one per core that this process may use.
    """

    def __init__(
        self,
        target: InstaTarget,
        form: str,
        *,
        threads: int = 1,
        timeout: float = 60.0,
        workers: int | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tvm_insta-tune-")
        self.folder = Path(self._folder.name)
        self._target, self._form, self._threads = target, form, threads
        self.device_code = back_end(target.tvm).device_code
        self._timeout = timeout
        count = workers or len(cores())
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._all = [Worker() for _ in range(count)]
        for worker in self._all:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(count)

    def request_of(self, task: Task) -> dict[str, Any]:
        """What a worker has to know of a task."""
        path = self.folder / f"{task.key}.json"
        if not path.exists():
            path.write_text(json.dumps(to_json(task.mod)), encoding="utf-8")
        return {
            "workload": str(path),
            "target": self._target.canonical,
            "threads": self._threads,
            "seed": SEED,
            "tiles": task.tiles,
            "device_code": self.device_code,
        }

    def build(self, task: Task, candidates: Sequence[Tiles | None]) -> list[Path | str]:
        """Build the candidates side by side: for each a file, or the error as text."""
        return list(self._pool.map(lambda tiles: self._build(task, tiles), candidates))

    def _build(self, task: Task, tiles: Tiles | None) -> Path | str:
        numbers: Mapping[str, int] | None = None if tiles is None else to_numbers(tiles)
        digest = hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:16]
        ending = {"library": "so", "program": "exe", "assembly": "s"}[self._form]
        out = self.folder / f"{task.key}-{digest}.{ending}"
        if out.exists():
            return out
        part = out.with_suffix(f".part.{ending}")  # a build that is killed leaves half a file
        request = {"op": "build", "parameters": numbers, "form": self._form, "out": str(part)}
        worker = self._idle.get()
        try:
            answer = worker.request(self.request_of(task), request, self._timeout)
        except WorkerFailure as failure:
            return f"build: {failure}"
        finally:
            self._idle.put(worker)
        if "error" in answer:
            return f"build: {answer['error']}"
        if resources_path(part).exists():
            resources_path(part).rename(resources_path(out))
        return part.rename(out)

    def close(self) -> None:
        """End the processes and delete what was built."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.close()
        self._folder.cleanup()


class LocalRunner:
    """Measures on this machine, in one worker process that is pinned to its core(s).

    All cores build a batch; then all but the measuring ones rest.

    Args:
        target: must be one that this machine runs.
        threads: worker threads of a candidate.
        build_timeout: seconds for one build.
        run_timeout: seconds for one measurement.
    """

    name = "local"
    unit = "seconds"

    def __init__(
        self,
        target: InstaTarget,
        *,
        threads: int = 1,
        build_timeout: float = 60.0,
        run_timeout: float = 30.0,
    ) -> None:
        self.cpu = machine_of(target)
        if not 1 <= threads <= len(cores()):
            raise TuneError(f"got {threads} threads, but this process may use 1 to {len(cores())}")
        self.builder = CandidateBuilder(target, "library", threads=threads, timeout=build_timeout)
        self._worker = Worker(cores()[-threads:], threads)
        self._run_timeout = run_timeout

    def prepare(self, task: Task) -> None:
        """See `Runner.prepare`."""
        reference(self.builder, self._worker, task, self._run_timeout)

    def measure(
        self, task: Task, candidates: Sequence[Tiles], repeats: int
    ) -> Iterator[tuple[Tiles, Outcome]]:
        """See `Runner.measure`."""
        built = self.builder.build(task, candidates)
        for tiles, library in zip(candidates, built, strict=True):
            yield tiles, self._measure(task, library, repeats)

    def _measure(self, task: Task, library: Path | str, repeats: int) -> Outcome:
        if isinstance(library, str):
            return Outcome(error=library)
        request = {
            "op": "measure",
            "library": str(library),
            "reference": str(reference_path(self.builder, task)),
            "repeats": repeats,
        }
        try:
            answer = self._worker.request(self.builder.request_of(task), request, self._run_timeout)
        except WorkerFailure as failure:
            return Outcome(error=f"run: {failure}")
        if "error" in answer:
            return refused(answer)
        return Outcome(tuple(answer["run_secs"]), answer["device"])

    def close(self) -> None:
        """See `Runner.close`."""
        self._worker.close()
        self.builder.close()


def refused(answer: Mapping[str, Any], device: str = "") -> Outcome:
    """What a worker's answer with an error says of a candidate."""
    wrong = answer.get("kind") == WrongResultError.__name__
    return Outcome(error=f"run: {answer['error']}", device=device, wrong=wrong)


def reference_path(builder: CandidateBuilder, task: Task) -> Path:
    """Where the outputs that candidates are compared with are kept."""
    return builder.folder / f"{task.key}-reference.json"


def reference_library(builder: CandidateBuilder, task: Task) -> Path:
    """Build what gives the reference outputs of a task.

    Integer outputs are those of the function without any schedule. Float ones are the default
    schedule's: where a target has fused multiply-add, LLVM rounds the unscheduled function in other
    places.

    Raises:
        TuneError: it cannot be built.
    """
    function = task.mod["main"]
    exact = all("int" in str(function.params[index].dtype) for index in outputs_of(task.mod))
    exact &= not builder.device_code  # a device runs no function that is not scheduled
    (library,) = builder.build(task, [None if exact else task.default])
    if isinstance(library, str):
        raise TuneError(f"the default schedule of {task.label} does not compile: {library}")
    return library


def reference(builder: CandidateBuilder, worker: Worker, task: Task, timeout: float) -> None:
    """Write the outputs that candidates of a task are compared with.

    Raises:
        TuneError: they cannot be computed.
    """
    out = reference_path(builder, task)
    if out.exists():
        return
    library = reference_library(builder, task)
    request = {"op": "reference", "library": str(library), "out": str(out)}
    answer = worker.request(builder.request_of(task), request, timeout)
    if "error" in answer:
        raise TuneError(f"the default schedule of {task.label} does not run: {answer['error']}")


def cores() -> list[int]:
    """The CPU cores that this process may use, ascending."""
    return sorted(os.sched_getaffinity(0))
