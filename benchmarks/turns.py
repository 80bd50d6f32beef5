"""``python -m benchmarks.turns TASK``: loaded artefacts run in turns, for benchmarks.overhead.

TASK is a JSON object: the folder of each artefact by name, threads, rounds. The answer holds the
seconds of every turn by name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import tvm_insta
from benchmarks.common import answer
from benchmarks.engines.run_ours import sample

# A turn is short, so that a round is over before the processor changes its pace. Its first run
# brings the artefact's weights back into the cache and is not timed.
RUNS = 4
WARMUP_ROUNDS = 3


class Timed(Protocol):
    """What takes turns: a loaded module."""

    def benchmark(self, *inputs: object, warmup: int, repeat: int) -> npt.NDArray[np.float64]:
        """Time single runs."""


def main(argv: list[str] | None = None) -> int:
    """Do the task; returns the exit code."""
    task = json.loads((argv or sys.argv[1:])[0])
    modules = {
        name: tvm_insta.load(folder, threads=task["threads"])
        for name, folder in task["folders"].items()
    }
    images = {name: sample(module) for name, module in modules.items()}
    answer({"seconds": take_turns(modules, images, task["rounds"])})
    return 0


def take_turns(
    modules: Mapping[str, Timed], images: Mapping[str, Any], rounds: int
) -> dict[str, list[float]]:
    """Time `modules` in turns, every other round backwards.

    Args:
        modules: loaded modules by name.
        images: the input of each, batch first.
        rounds: turns of each module that are kept; `WARMUP_ROUNDS` before them are not.

    Returns:
        `rounds` seconds by name: the median of the runs of each turn.
    """
    turns: dict[str, list[float]] = {name: [] for name in modules}
    for index in range(WARMUP_ROUNDS + rounds):
        for name in modules if index % 2 == 0 else reversed(list(modules)):
            seconds = modules[name].benchmark(images[name], warmup=1, repeat=RUNS)
            turns[name].append(float(np.median(seconds)))
    return {name: values[WARMUP_ROUNDS:] for name, values in turns.items()}


if __name__ == "__main__":
    sys.exit(main())
