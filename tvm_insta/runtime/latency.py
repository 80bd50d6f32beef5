"""The latency of a loaded module on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_insta.runtime import cpu
from tvm_insta.runtime.inputs import random_inputs
from tvm_insta.runtime.module import Module


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run.

    Attributes:
        median: half of the runs are faster.
        p10: a tenth of the runs are faster.
        p90: nine tenths of the runs are faster.
        batch: images in one run.
        threads: of one run.
        repeat: runs that were timed.
        warmup: runs before them.
        cpu: the processor's name.
    """

    median: float
    p10: float
    p90: float
    batch: int
    threads: int
    repeat: int
    warmup: int
    cpu: str


def measure(
    module: Module, *, batch: int = 1, warmup: int = 20, repeat: int = 200, threads: int = 1
) -> Latency:
    """Time ``module`` on standard normal inputs, or on random bytes where it takes bytes.

    Raises:
        InputError: a count that is not allowed.
    """
    inputs = random_inputs(module.manifest, batch)
    seconds = module.benchmark(*inputs, warmup=warmup, repeat=repeat)
    p10, median, p90 = np.percentile(1e3 * seconds, [10, 50, 90])
    return Latency(
        float(median), float(p10), float(p90), batch, threads, repeat, warmup, cpu.name()
    )
