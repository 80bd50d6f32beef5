"""``python -m benchmarks.peers``: ours and the peers, one after another on the same cores.

Each engine runs in a process of its own. An engine that is not installed or fails is listed with
the reason; none is dropped in silence. `benchmarks/requirements-peers.txt` names what to install.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tvm_insta import cli
from tvm_insta.errors import InputError
from tvm_insta.runtime import cpu

MODELS = ("resnet18", "mobilenet_v1")
_MARK = "RESULT "


@dataclass(frozen=True)
class Result:
    """One engine, network and number of threads; milliseconds of one image of 224x224.

    Attributes:
        engine: a key of `engines.ENGINES`.
        model: "resnet18" or "mobilenet_v1".
        threads: of the engine.
        median: half of the runs are faster, None if the engine did not run.
        p10: a tenth of the runs are faster.
        p90: nine tenths of the runs are faster.
        reason: why it did not run, "" if it did.
    """

    engine: str
    model: str
    threads: int
    median: float | None = None
    p10: float | None = None
    p90: float | None = None
    reason: str = ""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    result.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    result.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    result.add_argument("--only", nargs="+", help="engines whose name contains one of these")
    result.add_argument("--repeat", type=int, default=100, help="runs that are timed")
    result.add_argument("--json", type=Path, help="write the results here")
    result.add_argument("--markdown", type=Path, help="write the table here")
    result.add_argument("--plot", type=Path, help="write a picture here (.png)")
    result.add_argument("--from-json", type=Path, help="show recorded results, measure nothing")
    result.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return cli.run(_peers, parser(), argv)


def _peers(args: argparse.Namespace) -> int:
    if args.worker:
        return _work(*args.worker, repeat=args.repeat)
    if args.from_json:
        record = _read(args.from_json)
    else:
        record = {
            "cpu": cpu.name(),
            "features": sorted(cpu.cpu_features()),
            "command": " ".join(["python -m benchmarks.peers", *sys.argv[1:]]),
            "repeat": args.repeat,
            "results": [asdict(result) for result in measure_all(args)],
        }
    results = [Result(**entry) for entry in record["results"]]
    table = markdown(results, record["cpu"])
    print(table)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(table + "\n", encoding="utf-8")
    if args.plot:
        from benchmarks.plot import draw

        draw(results, record["cpu"], args.plot)
    return 0


def _read(path: Path) -> dict:
    try:
        record: dict = json.loads(path.read_text(encoding="utf-8"))
        _ = [Result(**entry) for entry in record["results"]], record["cpu"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no results ({error}): give a file that --json wrote"
        ) from error
    return record


def measure_all(args: argparse.Namespace) -> list[Result]:
    """Every chosen engine, network and number of threads, each in its own process."""
    from benchmarks.engines import ENGINES

    names = [n for n in ENGINES if not args.only or any(o.lower() in n.lower() for o in args.only)]
    if not names:
        raise InputError(f"--only {args.only} fits none of {', '.join(ENGINES)}")
    jobs = [(m, t, n) for m in args.models for t in args.threads for n in names]
    bar, results = cli.StepBar(steady=True), []
    for number, (model, threads, name) in enumerate(jobs, start=1):
        bar(f"{model}, {threads} threads, {name}", number, len(jobs))
        results.append(_in_a_process(name, model, threads, args.repeat))
    bar.close()
    return results


def _in_a_process(engine: str, model: str, threads: int, repeat: int) -> Result:
    command = [sys.executable, "-m", "benchmarks.peers", "--repeat", str(repeat), "--worker"]
    command += [engine, model, str(threads)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return Result(engine, model, threads, reason="took more than 600 s")
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return Result(**json.loads(line.removeprefix(_MARK)))
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return Result(engine, model, threads, reason=f"failed: {last}")


def _work(engine: str, model: str, threads: str, *, repeat: int) -> int:
    from benchmarks.engines import ENGINES, Unavailable

    make, mode = ENGINES[engine]
    try:
        run = make(model, mode, int(threads))
    except Unavailable as error:
        result = Result(engine, model, int(threads), reason=str(error))
    else:
        p10, median, p90 = np.percentile(_milliseconds(run, repeat), [10, 50, 90])
        result = Result(engine, model, int(threads), float(median), float(p10), float(p90))
    print(_MARK + json.dumps(asdict(result)))
    return 0


def _milliseconds(run: object, repeat: int) -> np.ndarray:
    assert callable(run)
    for _ in range(20):
        run()
    times = np.empty(repeat)
    for index in range(repeat):
        started = time.perf_counter()
        run()
        times[index] = time.perf_counter() - started
    return 1e3 * times


def markdown(results: Sequence[Result], processor: str) -> str:
    """A table: medians in milliseconds, and how many times the best of ours each takes."""
    threads = sorted({result.threads for result in results})
    columns = [f"{t} thread{'s' * (t > 1)}" for t in threads]
    lines = [f"One image of 224x224, median ms (times ours), {processor}", ""]
    for model in dict.fromkeys(result.model for result in results):
        lines += ["| " + " | ".join([model, *columns]) + " |"]
        lines += ["| " + " | ".join(["---", *["---:"] * len(columns)]) + " |"]
        mine = [r for r in results if r.model == model]
        for engine in dict.fromkeys(result.engine for result in mine):
            cells = [_cell(mine, engine, t) for t in threads]
            lines.append("| " + " | ".join([engine, *cells]) + " |")
        lines.append("")
    missing = dict.fromkeys((r.engine, r.reason) for r in results if r.median is None)
    lines += [f"- {engine}: not measured, {reason}" for engine, reason in missing]
    return "\n".join(lines).rstrip()


def _cell(results: Sequence[Result], engine: str, threads: int) -> str:
    here = [r for r in results if r.threads == threads and r.median is not None]
    best = min((r.median for r in here if r.engine.startswith("tvm_insta")), default=None)
    for result in here:
        if result.engine == engine:
            ratio = f" ({result.median / best:.2f}x)" if best else ""
            return f"{result.median:.2f}{ratio}"
    return "-"


if __name__ == "__main__":
    sys.exit(main())
