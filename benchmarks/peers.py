"""``python -m benchmarks.peers``: ours and the peers, one process after another on the same cores.

A round measures every engine once, each in a fresh process, every other round backwards; a machine
that slows down in the middle slows all alike. An engine that is not installed or fails is listed
with the reason; none is dropped in silence. `benchmarks/requirements-*.txt` name what to install.
Latency is that of one image; `--batches 8 32` measures images per second.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.engines import FAMILIES, MODELS, OURS, PEERS, Engine
from benchmarks.peers_runs import Plan, measure_all
from benchmarks.results import Result, markdown
from tvm_insta import cli
from tvm_insta.compiler.options import CompileOptions
from tvm_insta.errors import InputError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    add = result.add_argument
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--batches", type=int, nargs="+", default=[1], metavar="N", help="images of a run")
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
    add("--plot", type=Path, metavar="FILE", help="write a picture of batch 1 here (.png)")
    add("--summary", type=Path, metavar="FILE", help="write the README's picture here (.png)")
    add("--from-json", type=Path, metavar="FILE", help="show recorded results, measure nothing")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.execute(_peers, parser(), argv)


def _peers(args: argparse.Namespace) -> int:
    common.check_arguments(args, threads=1, batches=1, rounds=1, repeat=1, warmup=0, timeout=1)
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
    common.write(args, record, markdown(results, record))  # first: a picture may fail
    if args.plot:
        from benchmarks.plot import draw

        draw(results, record["cpu"], args.plot)
    if args.summary:
        from benchmarks.plot import summary

        summary(results, args.summary)
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
    batches = tuple(dict.fromkeys(args.batches))
    least = min(engine.least_batch for engine in chosen)
    if max(batches) < least:
        raise InputError(
            f"got --batches {' '.join(map(str, batches))}, but {chosen[0].name} takes batches of "
            f"{least} or more: ask for larger ones or for other engines"
        )
    if (args.plot or args.summary) and 1 not in batches:
        raise InputError(
            f"got --batches {' '.join(map(str, batches))}, but pictures show batch 1: add 1, or "
            "leave --plot and --summary out"
        )
    return Plan(
        chosen,
        models=tuple(dict.fromkeys(args.models)),
        batches=batches,
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


if __name__ == "__main__":
    sys.exit(main())
