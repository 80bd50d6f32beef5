"""What `tvm_insta.bench` takes, and what it does."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tvm_insta import runtime
from tvm_insta.files import write_output
from tvm_insta.runtime.latency import measure


def add_arguments(result: argparse.ArgumentParser) -> None:
    """The options of the command."""
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


def run_bench(args: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit code."""
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
        write_output(args.json, (json.dumps(asdict(latency), indent=1) + "\n").encode())
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
