"""Times of the kernels of an artefact on this machine, and the peaks they are held against."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_insta.errors import InputError, ToolchainError
from tvm_insta.files import write_output
from tvm_insta.runtime import Module, cpu
from tvm_insta.runtime.arrays import Array
from tvm_insta.runtime.regular_file import read_regular
from tvm_insta.runtime.schema import SchemaError, from_json
from tvm_insta.tuning.bandwidth import measure_bandwidth
from tvm_insta.tuning.peak import measure_peak

SCHEMA = "tvm_insta.layers/1"
_MOST_BYTES = 16 << 20
_CACHE, _MEMORY = 512 << 10, 128 << 20


@dataclass(frozen=True)
class Peaks:
    """What no kernel exceeds on one core of this machine.

    Attributes:
        binary_gmacs: 1e9 single-bit multiply-accumulates per second (xor, count, add).
        float_gmacs: 1e9 float32 multiply-accumulates per second.
        cache_gbs: 1e9 bytes per second read and written in a copy within the second-level cache.
        memory_gbs: the same in main memory.
    """

    binary_gmacs: float
    float_gmacs: float
    cache_gbs: float
    memory_gbs: float


@dataclass(frozen=True)
class KernelTime:
    """Median seconds of one kernel call in a run, of all images of the batch together."""

    symbol: str
    seconds: float


@dataclass(frozen=True)
class LayerTimes:
    """What ``bench --layers`` measures.

    Attributes:
        seconds: median of whole runs.
        kernel_seconds: median over runs of the sum of all kernels in the run.
        counted: median over runs of that sum by the whole run's time: 1 less what runs between
            kernels.
        kernels: one entry for each kernel call.
        peaks: None without a C compiler.
        batch: images in one run.
        threads: of one run.
        repeat: runs that were timed.
        warmup: runs before them.
        cpu: the processor's name.
    """

    seconds: float
    kernel_seconds: float
    counted: float
    kernels: tuple[KernelTime, ...]
    peaks: Peaks | None
    batch: int
    threads: int
    repeat: int
    warmup: int
    cpu: str
    schema: str = SCHEMA

    @property
    def kernel_sum(self) -> float:
        """The sum of the kernels' medians."""
        return sum(kernel.seconds for kernel in self.kernels)


def measure_layers(
    module: Module, inputs: list[Array], *, warmup: int, repeat: int, threads: int
) -> LayerTimes:
    """Time the kernels of an artefact that was compiled with ``--profile``.

    Args:
        module: loaded with this number of threads.
        inputs: a batch.
        warmup: runs before the clock starts.
        repeat: runs that are timed.
        threads: of one run.

    Raises:
        InputError: the artefact has no counters, or a count is not allowed.
    """
    found = module.kernel_times(*inputs, warmup=warmup, repeat=repeat)
    sums = found.kernels.sum(axis=1)
    medians = np.median(found.kernels, axis=0)
    return LayerTimes(
        seconds=float(np.median(found.whole)),
        kernel_seconds=float(np.median(sums)),
        counted=float(np.median(sums / found.whole)),
        kernels=tuple(
            KernelTime(kernel.symbol, float(seconds))
            for kernel, seconds in zip(module.manifest.kernels, medians, strict=True)
        ),
        peaks=measure_peaks(module.manifest.features),
        batch=len(inputs[0]),
        threads=threads,
        repeat=repeat,
        warmup=warmup,
        cpu=cpu.name(),
    )


def measure_peaks(features: tuple[str, ...]) -> Peaks | None:
    """The peaks of one core for code with these features; None without a C compiler."""
    try:
        peak = measure_peak(features)
    except ToolchainError:
        return None
    rates = (measure_bandwidth(size) for size in (_CACHE, _MEMORY))
    return Peaks(peak.binary_gmacs, peak.float_gmacs, *rates)


def write_times(path: Path, times: LayerTimes) -> None:
    """Write the times as JSON."""
    write_output(path, (json.dumps(dataclasses.asdict(times), indent=1) + "\n").encode())


def read_times(path: Path) -> LayerTimes:
    """Read what `write_times` wrote.

    Raises:
        InputError: the file is something else.
    """
    try:
        data = json.loads(read_regular(path, _MOST_BYTES).decode("utf-8"))
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise SchemaError(f"its schema is not {SCHEMA}")
        return from_json(LayerTimes, data)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"got {path} for times, but {error}: give the file that bench --layers --json writes"
        ) from error
