"""What `benchmarks.peers` found: results by engine, network, batch and threads, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.common import percentiles
from benchmarks.engines import OURS, input_shape


@dataclass(frozen=True)
class Result:
    """One engine, network, batch and number of threads; milliseconds of a batch.

    Attributes:
        engine: its name.
        model: one of `engines.MODELS`.
        threads: of the engine.
        median: half of all the runs are faster, None if the engine did not run.
        p10: a tenth of the runs are faster.
        p90: nine tenths of the runs are faster.
        reason: why it did not run, "" if it did.
        rounds: the median of each round: how far apart they are is how far to trust `median`.
        note: how the engine says it runs.
        batch: images of a run; files that are older than this field hold one image only.
    """

    engine: str
    model: str
    threads: int
    median: float | None = None
    p10: float | None = None
    p90: float | None = None
    reason: str = ""
    rounds: tuple[float, ...] = ()
    note: str = ""
    batch: int = 1

    @property
    def ours(self) -> bool:
        """Whether it is an engine of ours."""
        return self.engine.startswith(OURS)

    @property
    def images_per_second(self) -> float | None:
        """In the median run, None if the engine did not run."""
        return None if self.median is None else 1e3 * self.batch / self.median

    def with_times(self, rounds: Sequence[Sequence[float]]) -> Result:
        """This result with the milliseconds of every run of every round."""
        p10, median, p90 = percentiles(np.concatenate([np.asarray(r) for r in rounds]))
        medians = tuple(float(np.median(r)) for r in rounds)
        return replace(self, median=median, p10=p10, p90=p90, rounds=medians)


def ratio(result: Result, results: Sequence[Result]) -> float | None:
    """How many times the best of ours, as large and as parallel, it takes; None without either."""
    ours = [
        other.median
        for other in results
        if other.ours
        and other.median is not None
        and (other.model, other.batch, other.threads)
        == (result.model, result.batch, result.threads)
    ]
    return result.median / min(ours) if ours and result.median is not None else None


def markdown(results: Sequence[Result], record: Mapping[str, Any]) -> str:
    """A table per network and batch, those of one image first.

    Of one image the medians in milliseconds, and how many times the best of ours each takes; of a
    batch the images per second before both.

    Args:
        results: in the order of the rows.
        record: the head of the file of results; "cpu" is all that must be there.
    """
    single = [result for result in results if result.batch == 1]
    batches = [result for result in results if result.batch > 1]
    lines = []
    if single or not batches:
        head = "One image, batch 1, median ms (times the best of ours)"
        lines += [f"{head}, {_setting(record)}", "", *_tables(single)]
    if batches:
        head = "Batches, images per second (median ms of a batch, times the best of ours)"
        lines += [f"{head}, {_setting(record)}", "", *_tables(batches)]
    lines += [f"- {engine}: not measured{text}" for engine, text in _missing(results)]
    for family, versions in record.get("versions", {}).items():
        text = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(f"- versions, {family}: {text}")
    return "\n".join(lines).rstrip()


def _tables(results: Sequence[Result]) -> list[str]:
    """The lines of a table per network and batch, each with an empty line behind it."""
    lines = []
    for model, batch in dict.fromkeys((result.model, result.batch) for result in results):
        here = [result for result in results if (result.model, result.batch) == (model, batch)]
        threads = sorted({result.threads for result in here})
        columns = [f"{t} thread{'s' * (t > 1)}" for t in threads]
        side = input_shape(model)[-1]
        name = f"{model}, {side}x{side}" + (f", batch {batch}" if batch > 1 else "")
        lines += [f"| {name} | " + " | ".join(columns) + " |"]
        lines += ["| --- | " + " | ".join(["---:"] * len(columns)) + " |"]
        for engine in dict.fromkeys(result.engine for result in here):
            row = {result.threads: result for result in here if result.engine == engine}
            cells = [_cell(row.get(t), here) for t in threads]
            lines.append(f"| {engine} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def _setting(record: Mapping[str, Any]) -> str:
    parts = [str(record["cpu"])]
    if record.get("cores"):
        parts.append(f"pinned to cores {', '.join(map(str, record['cores']))}")
    if "rounds" in record:
        parts.append(f"{record['rounds']} rounds of {record['repeat']} runs")
    if "date" in record:
        parts.append(str(record["date"])[:10])
    return ", ".join(parts)


def _cell(result: Result | None, results: Sequence[Result]) -> str:
    if result is None or result.median is None:
        return "-"
    times = ratio(result, results)
    if result.batch == 1:
        return f"{result.median:.2f}" + (f" ({times:.2f}x)" if times else "")
    return f"{result.images_per_second:.1f} ({result.median:.2f}" + (
        f", {times:.2f}x)" if times else ")"
    )


def _missing(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Engine and reason, once each; where an engine ran elsewhere, with the places it did not."""
    ran = {result.engine for result in results if result.median is not None}
    places: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.median is None:
            threads = f"{result.threads} thread{'s' * (result.threads > 1)}"
            batch = f", batch {result.batch}," if result.batch > 1 else ""
            place = f"{result.model}{batch} on {threads}"
            places.setdefault((result.engine, result.reason), []).append(place)
    return [
        (engine, f" ({', '.join(where)}): {reason}" if engine in ran else f": {reason}")
        for (engine, reason), where in places.items()
    ]
