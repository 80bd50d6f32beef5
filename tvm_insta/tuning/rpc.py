"""The RPC runner: any number of devices measure side by side, and any of them may vanish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tvm_insta.errors import TuneError
from tvm_insta.schedules import Tiles
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.measure import WrongResultError
from tvm_insta.tuning.process import Worker, WorkerFailure
from tvm_insta.tuning.runner import (
    CandidateBuilder,
    Outcome,
    reference_library,
    reference_path,
    refused,
)
from tvm_insta.tuning.tasks import Task

_ATTEMPTS = 3
"""A device that vanishes looks like a candidate that crashes it: another one has to agree."""

_FINAL = (TuneError.__name__, WrongResultError.__name__)
"""Kinds of errors that another device would answer with, too."""

_WAIT = 120.0  # seconds for a free device


class RpcRunner:
    """Builds here, measures on the devices of a TVM RPC tracker.

    Args:
        target: of the devices.
        tracker: "host:port".
        key: under which the devices are registered.
        build_timeout: seconds for one build.
        run_timeout: seconds for one measurement, the upload included.

    Raises:
        TuneError: no device of the key is registered.
    """

    name = "rpc"
    unit = "seconds"

    def __init__(
        self,
        target: InstaTarget,
        tracker: str,
        key: str,
        *,
        build_timeout: float = 60.0,
        run_timeout: float = 30.0,
    ) -> None:
        from tvm_insta.tuning.remote import count_devices

        count = count_devices(tracker, key)
        if not count:
            raise TuneError(
                f"no device with key {key!r} is registered at the tracker {tracker}: start a "
                "server there, see examples/rpc"
            )
        self.cpu = f"devices of key {key}"
        self._where = {"tracker": tracker, "key": key, "wait": _WAIT, "session": run_timeout}
        self._timeout = run_timeout + _WAIT
        self.builder = CandidateBuilder(target, "library", timeout=build_timeout)
        self._workers = [Worker() for _ in range(count)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(count)

    def prepare(self, task: Task) -> None:
        """See `Runner.prepare`."""
        out = reference_path(self.builder, task)
        if out.exists():
            return
        library = reference_library(self.builder, task)
        answer = self._ask(
            task, {"op": "reference", "library": str(library), "out": str(out)}, _ATTEMPTS
        )
        if "error" in answer:
            raise TuneError(f"the default schedule of {task.label} does not run: {answer['error']}")

    def measure(
        self, task: Task, candidates: Sequence[Tiles], repeats: int
    ) -> Iterator[tuple[Tiles, Outcome]]:
        """See `Runner.measure`."""
        built = self.builder.build(task, candidates)
        running = {
            self._pool.submit(self._measure, task, library, repeats): tiles
            for tiles, library in zip(candidates, built, strict=True)
        }
        for future in as_completed(running):
            yield running[future], future.result()

    def _measure(self, task: Task, library: Path | str, repeats: int) -> Outcome:
        if isinstance(library, str):
            return Outcome(error=library)
        request = {
            "op": "measure",
            "library": str(library),
            "reference": str(reference_path(self.builder, task)),
            "repeats": repeats,
        }
        answer = self._ask(task, request, _ATTEMPTS)
        if "error" in answer:
            return refused(answer, answer.get("device", ""))
        return Outcome(tuple(answer["run_secs"]), answer["device"])

    def _ask(self, task: Task, request: dict[str, Any], attempts: int) -> dict[str, Any]:
        """An answer that does not hang on one device.

        Raises:
            TuneError: there is no device any more.
        """
        worker = self._idle.get()
        try:
            for _ in range(attempts):
                try:
                    answer = worker.request(
                        self.builder.request_of(task), {**request, **self._where}, self._timeout
                    )
                except WorkerFailure as failure:
                    answer = {"error": str(failure), "kind": "WorkerFailure"}
                if answer.get("kind") == "NoDeviceError":
                    raise TuneError(answer["error"])
                if "error" not in answer or answer.get("kind") in _FINAL:
                    break  # measured, or wrong, which is wrong on any device
        finally:
            self._idle.put(worker)
        return answer

    def close(self) -> None:
        """See `Runner.close`."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self.builder.close()
