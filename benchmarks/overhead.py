"""``python -m benchmarks.overhead``: what instance-aware thresholds cost over the baseline.

All variants of a network, in both forms, are compiled, loaded into one process and run in turns. A
round gives each one turn, and a variant is compared with the baseline of the same form and of its
own round only: a processor that slows down in the middle of a measurement slows both.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.engines import FAMILIES, MODELS
from benchmarks.turns import RUNS
from tvm_insta import cli
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.errors import InputError, InstaError

BASELINE = "baseline"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    BASELINE: {"variant": "baseline"},
    "insta, statistics reused": {"variant": "insta", "reuse_statistics": True},
    "insta": {"variant": "insta"},
    "insta_plus, statistics reused": {"variant": "insta_plus", "reuse_statistics": True},
    "insta_plus": {"variant": "insta_plus"},
}
"""Arguments of `nn.create` by the name in the table, the baseline first."""
CONTROL = "baseline, again"
"""A copy of the baseline's artefact: its cost is what cannot be told apart from nothing."""


@dataclass(frozen=True)
class Cost:
    """One variant of one network in one form; milliseconds of one image, overheads in per cent.

    Attributes:
        model: one of `engines.MODELS`.
        form: "c" or "vm".
        threads: worker threads.
        variant: a key of `VARIANTS`, or `CONTROL`.
        median: half of the turns are faster (a turn counts as the median of its runs).
        p10: a tenth of the turns are faster.
        p90: nine tenths of the turns are faster.
        overhead: median over the rounds of 100 * (turn / turn of the baseline - 1).
        overhead_p10: a tenth of the rounds have less.
        overhead_p90: nine tenths of the rounds have less.
    """

    model: str
    form: str
    threads: int
    variant: str
    median: float
    p10: float
    p90: float
    overhead: float
    overhead_p10: float
    overhead_p90: float


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="benchmarks.overhead", description=__doc__)
    add = result.add_argument
    add("--models", nargs="+", choices=MODELS, default=["resnet18", "mobilenet_v1"])
    add("--forms", nargs="+", choices=common.FORMS, default=list(common.FORMS))
    add("--threads", type=int, nargs="+", default=[1, 2])
    add(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar="NAME",
        help=f"beside the baseline: {', '.join(VARIANTS)}",
    )
    add("--rounds", type=int, default=50, help="turns of each variant")
    add("--cores", type=int, nargs="+", help="cores to pin to (default: the first ones)")
    add(
        "--compile-option",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="compile options of all, for instance target=avx2",
    )
    common.add_output_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_overhead, parser(), argv)


def _overhead(args: argparse.Namespace) -> int:
    common.check_arguments(args, threads=1, rounds=1)
    cores = common.choose_cores(args.cores, max(args.threads))
    options = common.compile_options(args.compile_option)
    if "runtime" in options:
        raise InputError("got the compile option runtime: choose the form with --forms")
    CompileOptions(**options)  # refuses wrong values before any work
    costs = _measure_all(args, cores, options)
    record = common.record(
        cores=list(cores),
        rounds=args.rounds,
        runs_in_a_turn=RUNS,
        compile_options=args.compile_option,
        versions={"ours": common.versions(*FAMILIES["ours"])},
        results=[asdict(cost) for cost in costs],
    )
    common.write(args, record, markdown(costs, record))
    return 0


def _measure_all(
    args: argparse.Namespace, cores: Sequence[int], options: Mapping[str, Any]
) -> list[Cost]:
    """Compile every variant in every form, then let those of a network take turns."""
    from benchmarks.engines.run_ours import build

    variants = [name for name in VARIANTS if name == BASELINE or name in args.variants]
    keys = [(form, name) for name in variants for form in dict.fromkeys(args.forms)]
    models, threads = dict.fromkeys(args.models), dict.fromkeys(args.threads)
    steps, step = len(models) * (len(keys) + len(threads)), 0
    bar, costs = cli.StepBar(), []
    for model in models:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            folders: dict[str, str] = {}
            for form, name in keys:
                bar(f"compile {model}, {name}, {form}", step := step + 1, steps)
                folder = Path(place) / str(len(folders))
                build(model, folder, {"runtime": form, **options}, **VARIANTS[name])
                folders[json.dumps([form, name])] = str(folder)
                if name == BASELINE:
                    copy = shutil.copytree(folder, f"{folder}-again")
                    folders[json.dumps([form, CONTROL])] = copy
            for count in threads:
                bar(f"measure {model}, {count} threads", step := step + 1, steps)
                task = {"folders": folders, "threads": count, "rounds": args.rounds}
                costs += compare(model, count, run_turns(task, cores[:count], count))
    bar.close()
    return costs


def run_turns(
    task: Mapping[str, Any], cores: Sequence[int], threads: int
) -> dict[str, list[float]]:
    """Let artefacts take turns in a process of their own, see `benchmarks.turns`.

    Args:
        task: "folders" by name, "threads", "rounds".
        cores: to pin to.
        threads: worker threads.

    Returns:
        Seconds of each turn by name.

    Raises:
        InstaError: the process failed.
    """
    try:
        found: dict[str, Any] = common.run_worker(
            ["-m", "benchmarks.turns", json.dumps(task)],
            threads=threads,
            cores=cores,
            python=sys.executable,
            timeout=3600,
        )
    except common.WorkerError as error:
        raise InstaError(f"the artefacts could not take turns: {error}") from error
    seconds: dict[str, list[float]] = found["seconds"]
    return seconds


def compare(model: str, threads: int, seconds: Mapping[str, Sequence[float]]) -> list[Cost]:
    """Summarise turns, form by form.

    Args:
        model: the network.
        threads: worker threads.
        seconds: of each turn, by the JSON text of [form, variant]; the baseline of every form is
            among them.
    """
    costs = []
    for key in sorted(seconds, key=lambda key: json.loads(key)[0]):
        form, variant = json.loads(key)
        turns = np.asarray(seconds[key])
        baseline = np.asarray(seconds[json.dumps([form, BASELINE])])
        p10, median, p90 = common.percentiles(1e3 * turns)
        low, middle, high = common.percentiles(100 * (turns / baseline - 1))
        costs.append(Cost(model, form, threads, variant, median, p10, p90, middle, low, high))
    return costs


def markdown(costs: Sequence[Cost], record: Mapping[str, Any]) -> str:
    """A table of medians and of overheads, each over the baseline of the same round."""
    head = [str(record["cpu"]), f"{record['rounds']} rounds", str(record["date"])[:10]]
    head += [f"compiled with {' '.join(record['compile_options'])}"] * bool(
        record["compile_options"]
    )
    lines = [
        f"One image, batch 1, {', '.join(head)}; ranges are from the 10th to the 90th percentile",
        "",
        "| network | form | threads | variant | median ms | range | overhead % | range |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for cost in costs:
        lines.append(
            f"| {cost.model} | {cost.form} | {cost.threads} | {cost.variant} "
            f"| {cost.median:.3f} | {cost.p10:.3f} to {cost.p90:.3f} | "
            f"{cost.overhead:+.1f} | {cost.overhead_p10:+.1f} to {cost.overhead_p90:+.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
