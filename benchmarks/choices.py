"""``python -m benchmarks.choices``: whether an option's default is ever the slower choice.

Each network is compiled with every value of ``--binary`` and of ``--stem`` that this machine has
the instructions for, in the plain-C form. All are loaded into one process and run in turns, as in
`benchmarks.overhead`; a choice is compared with the others of the same rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.engines import FAMILIES, MODELS
from benchmarks.overhead import run_turns
from benchmarks.turns import RUNS
from tvm_insta import cli
from tvm_insta.errors import InstaError

BINARY, STEMS = ("auto", "popcount", "amx"), ("fp32", "bf16", "int8")
TOLERANCE = 3.0
"""Per cent by which ``--binary auto`` may be slower than the best of its stem."""


@dataclass(frozen=True)
class Choice:
    """One way to compile one network; milliseconds of one image.

    Attributes:
        model: one of `engines.MODELS`.
        threads: worker threads.
        binary: "auto", "popcount" or "amx".
        stem: "fp32", "bf16" or "int8".
        median: half of the turns are faster.
        best: the fastest turn.
        over_best: per cent of its median over the least median of the same stem.
        over_fp32: median over the rounds, per cent over the same ``binary`` with the float32 stem.
    """

    model: str
    threads: int
    binary: str
    stem: str
    median: float
    best: float
    over_best: float
    over_fp32: float


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="benchmarks.choices", description=__doc__)
    add = result.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--target", default="native", help="as of tvm_insta.compile; runs on this machine")
    add("--threads", type=int, nargs="+", default=[1])
    add("--rounds", type=int, default=50, help="turns of each choice")
    add("--cores", type=int, nargs="+", help="cores to pin to (default: the first ones)")
    common.add_output_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_choices, parser(), argv)


def _choices(args: argparse.Namespace) -> int:
    common.check_arguments(args, threads=1, rounds=1)
    cores = common.choose_cores(args.cores, max(args.threads))
    found = _measure(args, cores)
    record = common.record(
        cores=list(cores),
        rounds=args.rounds,
        runs_in_a_turn=RUNS,
        target=args.target,
        versions={"ours": common.versions(*FAMILIES["ours"])},
        results=[asdict(choice) for choice in found],
    )
    common.write(args, record, markdown(found, record))
    return 0


def available(target: str) -> list[tuple[str, str]]:
    """The pairs of binary and stem that a target can serve."""
    from tvm_insta.compiler.option_checks import check_options
    from tvm_insta.target import parse

    parsed, pairs = parse(target), []
    for binary, stem in product(BINARY, STEMS):
        try:
            check_options(parsed, binary=binary, stem=stem)
        except InstaError:
            continue
        pairs.append((binary, stem))
    # Without tiles there is one way to compute a binary layer, whatever it is called.
    if not any(binary == "amx" for binary, _ in pairs):
        pairs = [pair for pair in pairs if pair[0] == "auto"]
    return pairs


def _measure(args: argparse.Namespace, cores: Sequence[int]) -> list[Choice]:
    from benchmarks.engines.run_ours import build

    pairs, models = available(args.target), dict.fromkeys(args.models)
    threads = dict.fromkeys(args.threads)
    steps, step = len(models) * (len(pairs) + len(threads)), 0
    bar, found = cli.StepBar(), []
    for model in models:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            folders: dict[str, str] = {}
            for binary, stem in pairs:
                bar(f"compile {model}, {binary}, {stem}", step := step + 1, steps)
                folder = Path(place) / f"{binary}-{stem}"
                options = {"runtime": "c", "target": args.target, "binary": binary, "stem": stem}
                if stem == "int8":
                    options["calibrate"] = "random"  # which changes no time
                build(model, folder, options, variant="insta")
                folders[f"{binary} {stem}"] = str(folder)
            for count in threads:
                bar(f"measure {model}, {count} threads", step := step + 1, steps)
                task = {"folders": folders, "threads": count, "rounds": args.rounds}
                found += compare(model, count, run_turns(task, cores[:count], count))
    bar.close()
    return found


def compare(model: str, threads: int, seconds: Mapping[str, Sequence[float]]) -> list[Choice]:
    """Summarise turns.

    Args:
        model: the network.
        threads: worker threads.
        seconds: of each turn, by "<binary> <stem>", with the same number of turns.
    """
    turns = {tuple(name.split(" ")): 1e3 * np.asarray(each) for name, each in seconds.items()}
    medians = {pair: float(np.median(each)) for pair, each in turns.items()}
    choices = []
    for (binary, stem), mine in turns.items():
        best = min(median for (_, other), median in medians.items() if other == stem)
        median = medians[binary, stem]
        over_best = 100 * (median / best - 1)
        over_fp32 = float(np.median(100 * (mine / turns.get((binary, "fp32"), mine) - 1)))
        choices.append(
            Choice(model, threads, binary, stem, median, float(mine.min()), over_best, over_fp32)
        )
    return choices


def markdown(choices: Sequence[Choice], record: Mapping[str, Any]) -> str:
    """A table, and a sentence about each choice that is the slower one."""
    head = [str(record["cpu"]), str(record["target"]), f"{record['rounds']} rounds"]
    lines = [
        f"One image, batch 1, plain-C form, {', '.join(head)}",
        "",
        "| network | threads | binary | stem | median ms | best ms | over the best | over fp32 |",
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {each.model} | {each.threads} | {each.binary} | {each.stem} | {each.median:.3f} "
        f"| {each.best:.3f} | {each.over_best:+.1f} % | {each.over_fp32:+.1f} % |"
        for each in choices
    ]
    slower = [
        f"{each.model}, {each.threads} threads: {what}"
        for each in choices
        if each.binary == "auto"
        for what, over in (
            (f"--binary auto with --stem {each.stem} is not the best", each.over_best),
            (f"--stem {each.stem} is slower than fp32", each.over_fp32),
        )
        if over > TOLERANCE
    ]
    none = f"No default is more than {TOLERANCE:g} % slower than another choice, nor is a stem."
    return "\n".join([*lines, "", *(slower or [none])])


if __name__ == "__main__":
    sys.exit(main())
