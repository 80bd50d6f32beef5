"""``python -m tvm_insta.bench``: the latency of an artefact on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tvm_insta import cli, runtime
from tvm_insta.runtime import Module, cpu
from tvm_insta.runtime.inputs import random_inputs


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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="tvm_insta.bench", description="Measure the latency of an artefact."
    )
    result.add_argument("artefact", type=Path, help="folder that the compile command wrote")
    result.add_argument("--threads", type=int, default=1, help="threads of one run")
    result.add_argument("--batch", type=int, default=1, help="images in one run")
    result.add_argument("--warmup", type=int, default=20, help="runs before the clock starts")
    result.add_argument("--repeat", type=int, default=200, help="runs that are timed")
    result.add_argument(
        "--layers",
        action="store_true",
        help="also the time of each kernel; needs an artefact compiled with --profile",
    )
    result.add_argument("--json", type=Path, help="write the figures here")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_bench, parser(), argv)


def _bench(args: argparse.Namespace) -> int:
    if args.layers:
        return _bench_layers(args)
    module = runtime.load(args.artefact, threads=args.threads)
    latency = measure(
        module, batch=args.batch, warmup=args.warmup, repeat=args.repeat, threads=args.threads
    )
    print(
        f"{args.artefact} ({module.form}): median {latency.median:.3f} ms, p10 {latency.p10:.3f}, "
        f"p90 {latency.p90:.3f} (batch {latency.batch}, {latency.threads} threads, "
        f"{latency.repeat} runs after {latency.warmup}, {latency.cpu})"
    )
    if args.json is not None:
        args.json.write_text(json.dumps(asdict(latency), indent=1) + "\n", encoding="utf-8")
    return 0


def _bench_layers(args: argparse.Namespace) -> int:
    from tvm_insta.report.explain_command import measured
    from tvm_insta.report.explanation import explain
    from tvm_insta.report.layer_times import write_times
    from tvm_insta.report.times_text import times_lines

    module = runtime.load(args.artefact, threads=args.threads)
    times = measured(
        module,
        batch=args.batch,
        threads=args.threads,
        warmup=args.warmup,
        repeat=args.repeat,
    )
    for line in times_lines(explain(module.manifest, times)):
        print(line)
    if args.json is not None:
        write_times(args.json, times)
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
