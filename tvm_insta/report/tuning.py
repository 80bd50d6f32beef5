"""What a sweep found: a table per layer, and an HTML page of it with a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tvm_insta.report import svg
from tvm_insta.report.page import Cell, document, escape, plain_table, section, table
from tvm_insta.tuning.lines import replace
from tvm_insta.tuning.meta import Meta
from tvm_insta.tuning.state import TaskState

PAGE = "report.html"
_HEADER = ("layer", "calls", "before", "after", "after/before", "rate", "of peak", "trials")


def sweep_lines(meta: Meta, states: Sequence[TaskState]) -> Iterator[str]:
    """The table before and after, and the sums over the network."""
    rows = [_HEADER, *(_row(meta, state) for state in states)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        yield "  ".join(cells).rstrip()
    sums = _sums(states)
    if sums is not None:
        before, after = (_amount(meta.unit, value) for value in sums)
        yield f"these layers together: {before} before, {after} after ({sums[1] / sums[0]:.3f})"
    yield _coverage(states)
    if meta.unit != "seconds":
        yield f"figures are {meta.unit} of runner {meta.runner}, not time"
    failed = sum(state.describe().failed for state in states)
    if failed:
        yield f"{failed} candidates failed; trials.jsonl says why"


def write_report(folder: Path, meta: Meta, states: Sequence[TaskState]) -> Iterator[str]:
    """Write the page; yields what was written.

    Raises:
        LogError, OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / PAGE, _page(meta, states))
    yield f"wrote {folder / PAGE}"


def _row(meta: Meta, state: TaskState) -> tuple[str, ...]:
    task, best = state.task, state.best
    before, after = state.default, None if best is None else best[1]
    rate = state.gmacs(after)
    return (
        task.label,
        str(task.calls),
        "-" if before is None else _amount(meta.unit, before),
        "-" if after is None else _amount(meta.unit, after),
        "-" if before is None or after is None else f"{after / before:.3f}",
        "-" if rate is None else _rate(meta.unit, rate),
        "-" if rate is None or not state.peak else f"{rate / state.peak:.0%}",
        str(state.tried),
    )


def _sums(states: Sequence[TaskState]) -> tuple[float, float] | None:
    """Figures of the whole network before and after, where every task has both."""
    pairs = [(state.task.calls, state.default, state.best) for state in states]
    if any(before is None or best is None for _, before, best in pairs):
        return None
    return (
        sum(calls * before for calls, before, _ in pairs if before is not None),
        sum(calls * best[1] for calls, _, best in pairs if best is not None),
    )


def _coverage(states: Sequence[TaskState]) -> str:
    """How much of the space was measured, and how good the schedules' own choices were."""
    count, tried = len(states), sum(state.tried for state in states)
    whole = sum(state.exhausted for state in states)
    kept = sum(state.kept_default for state in states)
    of = f"{kept} of {count} kernels keep the default, which was the best already"
    if whole == count:
        return (
            f"the space is exhausted: all {tried} choices were measured, none is left to try; {of}"
        )
    space = sum(len(state.task.choices) for state in states)
    some = f", all choices of {whole} kernels" if whole else ""
    return f"{tried} of {space} choices were measured{some}; {of}"


def _amount(unit: str, value: float) -> str:
    if unit == "seconds":
        return f"{1e6 * value:.1f} us"
    if unit == "modelled clocks":  # of one kernel some thousands, not millions
        return f"{1e9 * value:.0f} {unit}"
    return f"{1e3 * value:.3f} M {unit}"


def _rate(unit: str, rate: float) -> str:
    if unit == "seconds":
        return f"{rate:.1f} GMAC/s"
    return f"{rate:.2f} MAC/{unit.removesuffix('s')}"


def _plot(meta: Meta, states: Sequence[TaskState]) -> str:
    """Best so far over the trials, relative to the default."""
    series = [
        svg.Series(state.task.label, [value / state.curve[0] for value in state.curve])
        for state in states
        if state.curve
    ]
    trials = "trial of the layer (the first is the default schedule)"
    return svg.steps(series, x=trials, y=f"best so far / default ({meta.unit})")


def _page(meta: Meta, states: Sequence[TaskState]) -> str:
    facts = {
        "target": meta.target,
        "CPU": meta.cpu,
        "TVM": meta.tvm,
        "schedule version": str(meta.schedule_version),
        "runner": f"{meta.runner} ({meta.unit})",
        "threads": str(meta.threads),
        "seeds": ", ".join(sorted({str(task.seed) for task in meta.tasks.values()})),
    }
    if meta.peak is not None:
        facts["peak of one core"] = (
            f"{meta.peak.binary_gmacs:.0f} binary, {meta.peak.float_gmacs:.1f} float GMAC/s"
        )
    rows = [_page_row(meta, state) for state in states]
    header = (*_HEADER, "parameters")
    sums = list(sweep_lines(meta, states))[1 + len(states) :]
    parts = [
        section("The sweep", plain_table(facts)),
        section("Layers", table("layers", header, rows, numbers=range(1, len(_HEADER)))),
        section("The network", "<br>".join(map(escape, sums))),
    ]
    plot = _plot(meta, states)
    if plot:
        parts.append(section("Best so far", plot))
    return document(f"Tuning for {meta.target_text}", f"on {meta.cpu}", parts)


def _page_row(meta: Meta, state: TaskState) -> list[Cell]:
    best = state.describe().best
    chosen = "-" if best is None else ", ".join(f"{k} {v}" for k, v in best.parameters.items())
    layers = ", ".join(state.task.layers) or state.task.name
    return [Cell(layers, wide=True), *map(Cell, _row(meta, state)[1:]), Cell(chosen, wide=True)]
