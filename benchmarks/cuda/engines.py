"""``python -m benchmarks.cuda.engines TASK``: one engine on the card, in a process of its own.

What is timed is the same for all: the images are on the card, in the engine's own layout and
numbers; a call ends when the logits are there.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common import answer
from benchmarks.engines import Unavailable, input_shape
from tvm_insta.errors import InstaError

Run = Callable[[], object]
_WARM_SECONDS, _SECONDS = 0.5, 2.0
_LEAST_WARM, _LEAST_RUNS, _MOST_RUNS = 3, 10, 5_000


@dataclass(frozen=True)
class Task:
    """What a worker is to do.

    Attributes:
        engine: a key of `ENGINES`.
        model: one of `benchmarks.engines.MODELS`.
        batch: images of a call.
        artefact: folder of ours; "" for the others.
        device: of ours; the emulated one shows that it runs, and no time.
    """

    engine: str
    model: str
    batch: int
    artefact: str
    device: str = "cuda"


@dataclass(frozen=True)
class Engine:
    """How an engine starts: returns what runs a batch that is on the card, and waits for it."""

    start: Callable[[Task], Run]
    ours: bool = False


def images(task: Task) -> np.ndarray[Any, Any]:
    """Normal random images `[batch, 3, H, W]` float32."""
    shape = (task.batch, *input_shape(task.model)[1:])
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _ours(task: Task, *, graph: bool) -> Run:
    import tvm

    import tvm_insta

    module = tvm_insta.load(task.artefact, device=task.device, cuda_graph=graph)
    given = tvm.runtime.tensor(images(task), tvm.cuda(0))
    return lambda: module(given)


def _torch(task: Task, compiled: Callable[[Any], Any]) -> Run:
    try:
        import torch
    except ImportError as error:
        raise Unavailable(f"{error}: install PyTorch with CUDA") from error
    from benchmarks.float_models import MODELS

    if not torch.cuda.is_available():
        raise Unavailable("this PyTorch finds no card: install its build for CUDA")
    layout = torch.channels_last
    whole: Any = MODELS[task.model]().half().cuda()
    network = whole.to(memory_format=layout)
    given = torch.from_numpy(images(task)).half().cuda().to(memory_format=layout)
    call = compiled(network)

    def run() -> object:
        with torch.inference_mode():
            result = call(given)
        torch.cuda.synchronize()
        return result

    return run


def _compiled(network: Any) -> Any:
    import torch

    # With CUDA graphs, as ours may have: the fastest that needs no search of minutes.
    return torch.compile(network, mode="reduce-overhead")


def _tensorrt(network: Any) -> Any:
    import torch

    try:
        importlib.import_module("torch_tensorrt")  # which registers its backend
    except ImportError as error:
        raise Unavailable(f"{error}: TensorRT is measured where torch_tensorrt is") from error
    options: dict[str, Any] = {"enabled_precisions": {torch.float16}, "min_block_size": 1}
    return torch.compile(network, backend="torch_tensorrt", options=options, dynamic=False)


ENGINES: dict[str, Engine] = {
    "tvm_insta, graph": Engine(lambda task: _ours(task, graph=True), ours=True),
    "tvm_insta": Engine(lambda task: _ours(task, graph=False), ours=True),
    "torch.compile fp16": Engine(lambda task: _torch(task, _compiled)),
    "PyTorch eager fp16": Engine(lambda task: _torch(task, lambda network: network)),
    "TensorRT fp16": Engine(lambda task: _torch(task, _tensorrt)),
}
"""By the names of the table, in the order in which they are measured."""


def main(argv: list[str] | None = None) -> int:
    """Do the task; returns the exit code, 0 also where an engine is unavailable."""
    task = Task(**json.loads((argv or sys.argv[1:])[0]))
    try:
        answer({"reason": "", "ms": milliseconds(ENGINES[task.engine].start(task))})
    except (Unavailable, InstaError) as error:
        answer({"reason": str(error), "ms": []})
    return 0


def milliseconds(run: Run, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Single runs, after some and at least half a second of them without a clock."""
    begin, count = clock(), 0
    while count < _LEAST_WARM or clock() - begin < _WARM_SECONDS:
        run()
        count += 1
    begin = clock()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or (len(times) < _MOST_RUNS and clock() - begin < _SECONDS):
        start = clock()
        run()
        times.append(1e3 * (clock() - start))
    return times


if __name__ == "__main__":
    sys.exit(main())
