"""A process that builds and runs candidates: one that crashes or hangs takes nothing along.

`python -m tvm_insta.tuning.worker` reads one JSON request per line and answers each with one line:
its result, or {"error": ...} for what went wrong without killing the process. It dies with its
parent. `process.Worker` is the other end.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


class _State:
    """What the requests of one task share."""

    def __init__(self) -> None:
        self.task: Mapping[str, Any] = {}
        self.mod: Any = None
        self.target: Any = None

    def set(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take a task: its workload, target, threads, seed of its inputs, and use of AMX tiles."""
        from tvm_insta.target import parse
        from tvm_insta.tuning.workload import from_json

        self.mod = from_json(json.loads(Path(request["workload"]).read_text(encoding="utf-8")))
        self.target = parse(request["target"])
        self.task = dict(request)
        return {}

    def build(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Compile the task with parameters to a file; without, unscheduled."""
        from tvm_insta.tuning.build import build
        from tvm_insta.tuning.records import to_tiles

        numbers = request["parameters"]
        build(
            self.mod,
            self.target,
            None if numbers is None else to_tiles(numbers),
            request["form"],
            Path(request["out"]),
            threads=int(self.task["threads"]),
        )
        return {}

    def reference(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run a library and keep the bytes of its outputs."""
        from tvm_insta.tuning.measure import random_arrays, run_once
        from tvm_insta.tuning.workload import outputs_of

        arrays = random_arrays(self.mod, int(self.task["seed"]))
        with self._loaded(request) as (module, device, _):
            found = run_once(module, arrays, outputs_of(self.mod), device)
        Path(request["out"]).write_text(
            json.dumps([output.hex() for output in found]), encoding="utf-8"
        )
        return {}

    def measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Check a library against the reference, then time it, here or on a lent device."""
        from tvm_insta.tuning.measure import check, random_arrays, run_once, time_kernel
        from tvm_insta.tuning.workload import outputs_of

        expected = _expected(request)
        arrays = random_arrays(self.mod, int(self.task["seed"]))
        with self._loaded(request) as (module, device, where):
            check(run_once(module, arrays, outputs_of(self.mod), device), expected)
            seconds = time_kernel(module, arrays, device, int(request["repeats"]))
        return {"run_secs": seconds, "device": where}

    def model(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run a library for CUDA once on the emulated device, check it, and model what it did."""
        from tvm_insta.tuning.build import read_resources
        from tvm_insta.tuning.measure import check, random_arrays, run_once
        from tvm_insta.tuning.model import modelled
        from tvm_insta.tuning.workload import outputs_of

        library, emulated = Path(request["library"]), self._emulated()
        emulated.take_counts()
        arrays = random_arrays(self.mod, int(self.task["seed"]))
        with self._loaded(request) as (module, device, _):
            found = run_once(module, arrays, outputs_of(self.mod), device)
        check(found, _expected(request))
        counts, size = emulated.take_counts(), sum(array.nbytes for array in arrays)
        return modelled(self.target.mcpu, counts, read_resources(library), size)

    def _emulated(self) -> Any:
        from tvm_insta import cuda_emulator

        return cuda_emulator.start(self.target.mcpu, cuda_emulator.Options(counts=True))

    @contextmanager
    def _loaded(self, request: Mapping[str, Any]) -> Iterator[tuple[Any, Any, str]]:
        """The library of a request, its device, and the device's name: of this machine or lent.

        A lent device's server asks for the permission to use AMX itself.
        """
        library, device_code = Path(request["library"]), bool(self.task["device_code"])
        if "tracker" in request:
            from tvm_insta.tuning.remote import session

            where = (request["tracker"], request["key"])
            limits = request["wait"], request["session"]
            with session(*where, library, *limits, cuda=device_code) as opened:
                yield opened
            return
        import tvm

        if device_code:
            from tvm_insta.runtime import cuda_driver
            from tvm_insta.runtime.tvm_library import load_library

            if request.get("emulated"):
                self._emulated()
            else:
                cuda_driver.load(self.target.mcpu)
            load_library("libtvm_runtime_cuda.so")
            yield tvm.runtime.load_module(str(library)), tvm.cuda(), "the first card"
            return
        from tvm_insta.runtime.amx import TILES, ask_permission

        ask_permission([TILES] if self.task["tiles"] else [])
        yield tvm.runtime.load_module(str(library)), tvm.cpu(), "this machine"


def _expected(request: Mapping[str, Any]) -> list[bytes]:
    """The outputs that a candidate must have."""
    listed = json.loads(Path(request["reference"]).read_text(encoding="utf-8"))
    return [bytes.fromhex(text) for text in listed]


def main() -> int:
    """Answer requests until the parent closes the pipe."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # Whatever a library prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    state = _State()
    operations: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        "task": state.set,
        "build": state.build,
        "reference": state.reference,
        "measure": state.measure,
        "model": state.model,
    }
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = operations[request["op"]](request)
        except Exception as error:  # reported to the parent, which records it
            answer = {"error": _sentence(error), "kind": type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


if __name__ == "__main__":
    sys.exit(main())
