"""The evolutionary search against random search, on the float stem of ResNet-18.

    python -m benchmarks.tuning [--target T] [--runner R] [--trials N] [--seeds K]
        [--table FILE] [--json FILE]

Every choice of the stem is measured once, with the runner that is asked for. Both searches then run
on that table, several times with different seeds: so they differ only in what they choose, neither
in luck with the clock nor in the machine's other work. What is compared is the best that each finds
within the trials; the best of the whole table stands beside it. `--table` keeps the table, or takes
it from there if it exists.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_insta import cli
from tvm_insta.errors import InstaError, TuneError

STEM_MACS = 112 * 112 * 49 * 3 * 64
_MEASURED_TOGETHER = 16
_BATCH = 4  # as a sweep's default


@dataclass(frozen=True)
class Comparison:
    """Both searches on one table.

    Attributes:
        unit: of the figures, see `tvm_insta.tuning.runner.Runner`.
        trials: of each search, the default included.
        choices: in the table.
        default: figure of the schedule's own choice.
        optimum: least figure of the table.
        evolutionary: best figure of the evolutionary search, one per seed.
        random: best figure of random search, one per seed.
    """

    unit: str
    trials: int
    choices: int
    default: float
    optimum: float
    evolutionary: tuple[float, ...]
    random: tuple[float, ...]

    @property
    def wins(self) -> bool:
        """Whether the evolutionary search is better at the median."""
        return statistics.median(self.evolutionary) < statistics.median(self.random)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("--target", default="native", help="default: native")
    parser.add_argument("--runner", default="local", choices=("local", "icount", "mca"))
    parser.add_argument("--trials", type=int, default=24, metavar="N", help="default 24")
    parser.add_argument("--seeds", type=int, default=3, metavar="K", help="default 3")
    parser.add_argument("--table", type=Path, metavar="FILE", help="figures of every choice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, too")
    options = parser.parse_args(arguments)
    for name in ("trials", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; pass 1 or more")
    os.environ["TVM_NUM_THREADS"] = "1"  # read once, when TVM is loaded
    try:
        task, target = stem_task(options.target)
        unit, table = _table(task, target, options.runner, options.table)
        found = compare(task, target, unit, table, options.trials, range(options.seeds))
    except InstaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(report(found)))
    if options.json:
        about = {"target": target.canonical, "runner": options.runner, "wins": found.wins}
        options.json.write_text(json.dumps({**about, **vars(found)}, indent=1) + "\n", "utf-8")
    return 0


def stem_task(text: str) -> tuple[Any, Any]:
    """The task of the float stem for a target, and the target."""
    from tvm import tirx

    from benchmarks.kernels import stem
    from tvm_insta.passes.pipeline import fuse
    from tvm_insta.target import parse
    from tvm_insta.tuning.tasks import LayerOf, task_of

    target = parse(text)
    functions = fuse(stem(target)).functions.items()
    ((name, function),) = [(v.name_hint, f) for v, f in functions if isinstance(f, tirx.PrimFunc)]
    task = task_of(name, function, target, layers=[LayerOf("stem", STEM_MACS)])
    if task is None:
        raise TuneError(f"the stem has no parameters to tune for {text!r}")
    return task, target


def _table(task: Any, target: Any, runner: str, path: Path | None) -> tuple[str, list[float]]:
    """Unit, and the figure of every choice in the order of the task; infinity where it failed."""
    if path is not None and path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if (kept["task"], kept["runner"]) != (task.key, runner):
            raise TuneError(f"{path} is the table of another task or runner: name another file")
        return str(kept["unit"]), [float(figure) for figure in kept["figures"]]
    unit, figures = measure_all(task, target, runner)
    if path is not None:
        kept = {"task": task.key, "runner": runner, "unit": unit, "figures": figures}
        path.write_text(json.dumps(kept) + "\n", encoding="utf-8")
    return unit, figures


def measure_all(task: Any, target: Any, name: str) -> tuple[str, list[float]]:
    """Measure every choice of a task."""
    from tvm_insta.tuning.runners import RunnerOptions, make_runner

    runner = make_runner(name, target, RunnerOptions(run_timeout=120.0))
    bar = cli.StepBar(steady=True)
    found: dict[Any, float] = {}
    try:
        runner.prepare(task)
        for first in range(0, len(task.choices), _MEASURED_TOGETHER):
            bar("choices measured", first + 1, len(task.choices))
            some = task.choices[first : first + _MEASURED_TOGETHER]
            for tiles, outcome in runner.measure(task, some, 5):
                figures = outcome.run_secs
                found[tiles] = statistics.median(figures) if figures else float("inf")
    finally:
        bar.close()
        runner.close()
    return runner.unit, [found[tiles] for tiles in task.choices]


def compare(
    task: Any, target: Any, unit: str, table: Sequence[float], trials: int, seeds: Sequence[int]
) -> Comparison:
    """Run both searches on a table, once per seed."""
    costs = dict(zip(task.choices, table, strict=True))
    best = {
        kind: tuple(min(_search(kind, task, target, costs, trials, seed)) for seed in seeds)
        for kind in ("evolutionary", "random")
    }
    return Comparison(
        unit,
        trials,
        len(table),
        costs[task.default],
        min(table),
        best["evolutionary"],
        best["random"],
    )


def _search(
    kind: str, task: Any, target: Any, costs: Any, trials: int, seed: int
) -> Iterator[float]:
    """Figures of one search's trials, the default first."""
    from tvm_insta.tuning.runner import Outcome
    from tvm_insta.tuning.search import make_search

    def outcome(tiles: Any) -> Any:
        figure = costs[tiles]
        return Outcome(error="failed") if figure == float("inf") else Outcome((figure,))

    yield costs[task.default]
    left = trials - 1
    search = make_search(kind, task, target, batch=_BATCH, seed=seed, default=outcome(task.default))
    while left > 0 and (batch := search.propose()):
        search.learn([(tiles, outcome(tiles)) for tiles in batch])
        yield from (costs[tiles] for tiles in batch[:left])
        left -= len(batch)


def report(found: Comparison) -> Iterator[str]:
    """The lines that are printed."""

    def amount(figure: float) -> str:
        scale, name = (1e6, "us") if found.unit == "seconds" else (1e3, f"M {found.unit}")
        return f"{scale * figure:.3f} {name}"

    yield f"{found.choices} choices, {found.trials} trials of each search, figures on one table"
    yield f"default schedule  {amount(found.default)}"
    yield f"best of the table {amount(found.optimum)}"
    for kind in ("evolutionary", "random"):
        figures = getattr(found, kind)
        middle = statistics.median(figures)
        each = ", ".join(f"{figure / found.optimum:.4f}" for figure in figures)
        yield (
            f"{kind:12} best found, median of {len(figures)} seeds: {amount(middle)}, "
            f"{middle / found.optimum:.4f} of the optimum (seeds: {each})"
        )
    yield "the evolutionary search " + ("is better" if found.wins else "is NOT better")


if __name__ == "__main__":
    started = time.perf_counter()
    code = main()
    print(f"({time.perf_counter() - started:.0f} s)", file=sys.stderr)
    sys.exit(code)
