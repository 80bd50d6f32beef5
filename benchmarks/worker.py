"""``python -m benchmarks.worker TASK``: one engine in a process of its own, for benchmarks.peers.

TASK is a JSON object: what to do ("prepare" or "time"), family, mode, options, model, batch,
folder, threads, repeat, warmup. The answer holds a reason, or the milliseconds of every run, that
is of a batch, in order.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.common import answer, versions
from benchmarks.engines import FAMILIES, Runner, Unavailable
from tvm_insta.errors import InstaError

_LEAST_WARMUP = 3


def main(argv: list[str] | None = None) -> int:
    """Do the task; returns the exit code, 0 also where an engine is unavailable."""
    task = json.loads((argv or sys.argv[1:])[0])
    try:
        answer(work(task))
    except (Unavailable, InstaError) as error:
        answer({"reason": str(error)})
    return 0


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Prepare an engine or time it.

    Raises:
        Unavailable: it cannot run here.
    """
    engine = import_module(f"benchmarks.engines.run_{task['family']}")
    common = (task["mode"], task["model"], Path(task["folder"]))
    if task["do"] == "prepare":
        engine.prepare(*common, task["options"], batch=task["batch"])
        return {"reason": "", "versions": versions(*FAMILIES[task["family"]])}
    run, note = engine.start(*common, task["threads"], task["options"], batch=task["batch"])
    return {"reason": "", "note": note, "ms": milliseconds(run, task["repeat"], task["warmup"])}


def milliseconds(run: Runner, repeat: int, warmup: float) -> list[float]:
    """Time single runs, after some and at least `warmup` seconds of them without a clock."""
    begin = time.perf_counter()
    count = 0
    while count < _LEAST_WARMUP or time.perf_counter() - begin < warmup:
        run()
        count += 1
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return times


if __name__ == "__main__":
    sys.exit(main())
