"""``python -m benchmarks.peers``: ours and the peers, one process after another on the same cores.

A round measures every engine once, each in a fresh process, every other round backwards; a machine
that slows down in the middle slows all alike. An engine that is not installed or fails is listed
with the reason; none is dropped in silence. `benchmarks/requirements-*.txt` name what to install.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.engines import FAMILIES, MODELS, OURS, PEERS, Engine
from benchmarks.results import Result, markdown
from tvm_insta import cli
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.errors import InputError


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        engines: the rows of the table.
        models: the networks.
        threads: numbers of threads.
        cores: of the largest number of threads; fewer threads take the first of them.
        pythons: interpreter by family; this one where a family is not named.
        rounds: how often each engine is started.
        repeat: runs that are timed in a round.
        warmup: seconds of untimed runs before them.
        timeout: seconds that a process may take.
    """

    engines: tuple[Engine, ...]
    models: tuple[str, ...]
    threads: tuple[int, ...]
    cores: tuple[int, ...]
    pythons: Mapping[str, str]
    rounds: int
    repeat: int
    warmup: float
    timeout: float


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    add = result.add_argument
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--models", nargs="+", choices=MODELS, default=["resnet18", "mobilenet_v1"])
    add("--forms", nargs="+", choices=common.FORMS, default=list(common.FORMS), help="of ours")
    add("--only", nargs="+", metavar="TEXT", help="engines whose name contains one of these")
    add("--rounds", type=int, default=3, help="how often each engine is started")
    add("--repeat", type=int, default=50, help="runs that are timed in a round")
    add("--warmup", type=float, default=0.5, help="seconds of untimed runs before them")
    add("--timeout", type=float, default=900, help="seconds that a process may take")
    add("--cores", type=int, nargs="+", help="cores to pin to (default: the first ones)")
    add(
        "--python",
        action="append",
        default=[],
        metavar="FAMILY=PATH",
        help=f"interpreter of a family of engines ({', '.join(FAMILIES)})",
    )
    add(
        "--compile-option",
        action="append",
        nargs="*",
        metavar="KEY=VALUE",
        help="compile options of ours; given several times, each adds rows of its own, and without "
        "a word behind it the defaults",
    )
    common.add_output_arguments(result)
    add("--plot", type=Path, metavar="FILE", help="write a picture of all here (.png)")
    add("--summary", type=Path, metavar="FILE", help="write the README's picture here (.png)")
    add("--from-json", type=Path, metavar="FILE", help="show recorded results, measure nothing")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_peers, parser(), argv)


def _peers(args: argparse.Namespace) -> int:
    common.check_arguments(args, threads=1, rounds=1, repeat=1, warmup=0, timeout=1)
    if args.from_json:
        record = _read(args.from_json)
    else:
        plan = make_plan(args)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            results, versions = measure_all(plan, Path(folder))
        record = common.record(
            cores=list(plan.cores),
            rounds=plan.rounds,
            repeat=plan.repeat,
            warmup=plan.warmup,
            versions=versions,
            results=[asdict(result) for result in results],
        )
    results = [Result(**entry) for entry in record["results"]]
    if args.plot:
        from benchmarks.plot import draw

        draw(results, record["cpu"], args.plot)
    if args.summary:
        from benchmarks.plot import summary

        summary(results, args.summary)
    common.write(args, record, markdown(results, record))
    return 0


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = [Result(**entry) for entry in record["results"]], record["cpu"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no results ({error}): give a file that --json wrote"
        ) from error
    return record


def make_plan(args: argparse.Namespace) -> Plan:
    """Check the arguments and choose the engines.

    Raises:
        InputError: which argument, and what it must be.
    """
    engines = (*_ours(args), *PEERS)
    only = [text.lower() for text in args.only or [""]]
    chosen = tuple(e for e in engines if any(text in e.name.lower() for text in only))
    if not chosen:
        names = ", ".join(engine.name for engine in engines)
        raise InputError(f"--only {' '.join(args.only)} fits no engine; they are {names}")
    return Plan(
        chosen,
        models=tuple(dict.fromkeys(args.models)),
        threads=tuple(dict.fromkeys(args.threads)),
        cores=common.choose_cores(args.cores, max(args.threads)),
        pythons=_pythons(args.python),
        rounds=args.rounds,
        repeat=args.repeat,
        warmup=args.warmup,
        timeout=args.timeout,
    )


def _ours(args: argparse.Namespace) -> list[Engine]:
    engines = []
    for words in args.compile_option or [[]]:
        options = common.compile_options(words)
        if "runtime" in options:
            raise InputError("got the compile option runtime: choose the form with --forms")
        text = f", {common.option_text(options)}" if options else ""
        for form in dict.fromkeys(args.forms):
            CompileOptions(**{"runtime": form, **options})  # refuses wrong values
            name = f"{OURS} {form}{text} (binary)"
            engines.append(Engine(name, "ours", form, tuple(words)))
    return engines


def _pythons(words: Sequence[str]) -> dict[str, str]:
    pythons = {}
    for word in words:
        family, _, path = word.partition("=")
        if family not in FAMILIES:
            raise InputError(
                f"got --python {word}, but it must be FAMILY=PATH with a FAMILY among "
                f"{', '.join(FAMILIES)}"
            )
        found = shutil.which(path)
        if found is None:
            raise InputError(f"got --python {word}, but {path or 'nothing'} is no program")
        # Not resolved: the interpreter of a virtual environment is a link.
        pythons[family] = str(Path(found).absolute())
    return pythons


def measure_all(plan: Plan, folder: Path) -> tuple[list[Result], dict[str, dict[str, str]]]:
    """Prepare every engine, then measure in rounds.

    Args:
        plan: what and how.
        folder: empty; receives what the engines prepare.

    Returns:
        One result per network, number of threads and engine, and the versions by family.
    """
    jobs = [(m, e) for m in plan.models for e in plan.engines]
    runs = [(m, t, e) for m in plan.models for t in plan.threads for e in plan.engines]
    steps = len(jobs) + plan.rounds * len(runs)
    bar, step = cli.StepBar(), 0
    versions: dict[str, dict[str, str]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for number, (model, engine) in enumerate(jobs):
        bar(f"prepare {model}, {engine.name}", step := step + 1, steps)
        place = folder / str(number)
        place.mkdir()
        answer = _work(plan, engine, model, max(plan.threads), do="prepare", folder=place)
        reasons[model, engine.name] = answer["reason"]
        versions.setdefault(engine.family, {}).update(answer.get("versions", {}))
    found: dict[tuple[str, int, str], Result] = {
        (model, threads, engine.name): Result(
            engine.name, model, threads, reason=reasons[model, engine.name]
        )
        for model, threads, engine in runs
    }
    times: dict[tuple[str, int, str], list[list[float]]] = {key: [] for key in found}
    for index in range(plan.rounds):
        for model, threads, engine in runs if index % 2 == 0 else reversed(runs):
            bar(
                f"round {index + 1}: {model}, {threads} threads, {engine.name}",
                step := step + 1,
                steps,
            )
            key = (model, threads, engine.name)
            if found[key].reason:
                continue
            place = folder / str(jobs.index((model, engine)))
            answer = _work(plan, engine, model, threads, do="time", folder=place)
            if not answer["reason"]:
                times[key].append(answer["ms"])
            found[key] = replace(found[key], reason=answer["reason"], note=answer.get("note", ""))
    bar.close()
    return [
        result if result.reason else result.with_times(times[key]) for key, result in found.items()
    ], {family: have for family, have in versions.items() if have}


def _work(
    plan: Plan, engine: Engine, model: str, threads: int, *, do: str, folder: Path
) -> dict[str, Any]:
    task = {
        **{"do": do, "family": engine.family, "mode": engine.mode, "options": engine.options},
        **{"model": model, "folder": str(folder), "threads": threads},
        **{"repeat": plan.repeat, "warmup": plan.warmup},
    }
    try:
        answer: dict[str, Any] = common.run_worker(
            ["-m", "benchmarks.worker", json.dumps(task)],
            threads=threads,
            cores=plan.cores[:threads],
            python=plan.pythons.get(engine.family, sys.executable),
            timeout=plan.timeout,
        )
    except common.WorkerError as error:
        return {"reason": str(error)}
    return answer


if __name__ == "__main__":
    sys.exit(main())
