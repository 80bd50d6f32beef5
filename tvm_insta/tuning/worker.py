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
        with _loaded(request, self.task["tiles"]) as (module, device, _):
            found = run_once(module, arrays, outputs_of(self.mod), device)
        Path(request["out"]).write_text(
            json.dumps([output.hex() for output in found]), encoding="utf-8"
        )
        return {}

    def measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Check a library against the reference, then time it, here or on a lent device."""
        from tvm_insta.tuning.measure import check, random_arrays, run_once, time_kernel
        from tvm_insta.tuning.workload import outputs_of

        expected = [
            bytes.fromhex(text)
            for text in json.loads(Path(request["reference"]).read_text(encoding="utf-8"))
        ]
        arrays = random_arrays(self.mod, int(self.task["seed"]))
        with _loaded(request, self.task["tiles"]) as (module, device, where):
            check(run_once(module, arrays, outputs_of(self.mod), device), expected)
            seconds = time_kernel(module, arrays, device, int(request["repeats"]))
        return {"run_secs": seconds, "device": where}


@contextmanager
def _loaded(request: Mapping[str, Any], tiles: bool) -> Iterator[tuple[Any, Any, str]]:
    """The library of a request, its device, and the device's name: this machine's or a lent one.

    `tiles`: the library uses AMX. A lent device's server asks for the permission itself.
    """
    library = Path(request["library"])
    if "tracker" in request:
        from tvm_insta.tuning.remote import session

        where = (request["tracker"], request["key"])
        with session(*where, library, request["wait"], request["session"]) as opened:
            yield opened
    else:
        import tvm

        from tvm_insta.runtime.amx import TILES, ask_permission

        ask_permission([TILES] if tiles else [])
        yield tvm.runtime.load_module(str(library)), tvm.cpu(), "this machine"


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
