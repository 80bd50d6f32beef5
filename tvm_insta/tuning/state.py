"""What a sweep knows of one task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tvm_insta.schedules import Tiles
from tvm_insta.target import InstaTarget
from tvm_insta.tuning import meta
from tvm_insta.tuning.records import Record, best_record, to_numbers
from tvm_insta.tuning.runner import Outcome
from tvm_insta.tuning.search import Search, make_search
from tvm_insta.tuning.tasks import Task

# A batch that does not improve the best by this much halves the task's claim on further trials.
_IMPROVEMENT = 0.005


class TaskState:
    """The trials of one task, and its search.

    Attributes:
        task: what is tuned.
        peak: 1e9 multiply-accumulates per second that no kernel can exceed, None if unknown.
        records: of this task in the log, those of the rules' present choices, in order.
        recorded: trials of this task in the log when the sweep began.
        curve: best median after each trial, in the log's unit; infinity while all failed.
        finals: outcomes of the final comparison.
        searching: the search may propose more.
        prepared: the runner knows the task.
    """

    def __init__(
        self,
        task: Task,
        records: Sequence[Record],
        devices: Mapping[str, int],
        *,
        seed: int,
        search: str,
        batch: int,
        peak: float | None,
    ) -> None:
        self.task, self.peak = task, peak
        self.curve: list[float] = []
        self.finals: dict[Tiles, Outcome] = {}
        self.searching = True
        self.prepared = False
        self._seed, self._kind, self._batch = seed, search, batch
        self._search: Search | None = None
        self._logged: dict[Tiles, Outcome] = {}
        self._tried: dict[Tiles, Outcome] = {}
        self._devices = Counter(devices)
        self._idle_batches = 0
        choices = set(task.choices)
        self.records = [r for r in records if r.tiles in choices]  # others: of earlier rules
        for record in self.records:
            tiles = record.tiles
            assert tiles is not None
            error = "failed before" if record.failed else ""
            outcome = Outcome(record.run_secs, "", error, record.wrong)
            if record.final:
                self.finals[tiles] = outcome
            else:
                self._logged[tiles] = outcome
        self.recorded = len(self._logged)

    def recorded_outcome(self, tiles: Tiles) -> Outcome | None:
        """What the log knows of these parameters."""
        return self._logged.get(tiles)

    @property
    def tried(self) -> int:
        """Trials that count: those in the log, whether the search came to them again or not."""
        return len(self._logged)

    @property
    def exhausted(self) -> bool:
        """Whether every choice was tried: no further trial can find anything."""
        return all(tiles in self._logged for tiles in self.task.choices)

    @property
    def kept_default(self) -> bool:
        """Whether nothing that was tried is better than the schedule's own choice."""
        return self.best is not None and self.best[0] == self.task.default

    @property
    def default(self) -> float | None:
        """Median of the default, from the final comparison if there was one."""
        return self._median(self.task.default)

    @property
    def best(self) -> tuple[Tiles, float] | None:
        """The parameters that the compiler would use, and their median."""
        best = best_record(self.records)
        if best is None or best.tiles is None:
            return None
        return best.tiles, best.median

    def gain(self) -> float:
        """What more trials may save of a network's time, in the log's unit."""
        best = min(self.curve, default=float("inf"))
        floor = 0.0 if not self.peak else self.task.macs / self.peak / 1e9
        return self.task.calls * max(best - floor, 0.0) * 0.5**self._idle_batches

    def forget_failed_default(self) -> None:
        """A default that failed, on a busy machine say, is measured again."""
        outcome = self._logged.get(self.task.default)
        if outcome is not None and outcome.error:
            del self._logged[self.task.default]

    def start(self, target: InstaTarget, default: Outcome) -> None:
        """Begin to search, the default being known."""
        self._search = make_search(
            self._kind, self.task, target, batch=self._batch, seed=self._seed, default=default
        )

    def propose(self) -> list[Tiles]:
        """The next batch of the search."""
        assert self._search is not None
        proposed = self._search.propose()
        self.searching = bool(proposed)
        return proposed

    def learn(self, outcomes: Sequence[tuple[Tiles, Outcome]]) -> None:
        """Tell the search the outcomes of its batch, in its order."""
        assert self._search is not None
        if not outcomes:
            return
        self._search.learn(outcomes)
        before = min(self.curve[: -len(outcomes)], default=float("inf"))
        improved = min(self.curve) < before * (1 - _IMPROVEMENT)
        self._idle_batches = 0 if improved else self._idle_batches + 1

    def tell(self, tiles: Tiles, outcome: Outcome) -> None:
        """Take an outcome that is in the log."""
        self._logged[tiles] = outcome
        if outcome.device:
            self._devices[outcome.device] += 1
        last = self.curve[-1] if self.curve else float("inf")
        median = float(np.median(outcome.run_secs)) if outcome.run_secs else float("inf")
        self.curve.append(min(last, median))

    def finalists(self, count: int) -> list[Tiles]:
        """The default and the `count` best others."""
        medians = {
            tiles: float(np.median(outcome.run_secs))
            for tiles, outcome in self._logged.items()
            if outcome.run_secs and tiles != self.task.default
        }
        best = sorted(medians, key=lambda tiles: (medians[tiles], *to_numbers(tiles).values()))
        default = [self.task.default] if self.task.default in self._logged else []
        return [*default, *best[:count]]

    def describe(self) -> meta.TaskMeta:
        """The task's entry in the meta data."""
        best = best_record(self.records)
        return meta.TaskMeta(
            name=self.task.name,
            rule=self.task.rule,
            layers=self.task.layers,
            calls=self.task.calls,
            macs=self.task.macs,
            seed=self._seed,
            search=self._kind,
            batch=self._batch,
            choices=len(self.task.choices),
            trials=len(self._logged),
            failed=sum(1 for outcome in self._logged.values() if outcome.error),
            default=self._figure(self.task.default),
            best=None if best is None else meta.figure_of(best),
            devices=dict(self._devices),
        )

    def gmacs(self, median: float | None) -> float | None:
        """1e9 multiply-accumulates per unit of the log."""
        return self.task.macs / median / 1e9 if median and self.task.macs else None

    def _outcome(self, tiles: Tiles) -> Outcome | None:
        outcome = self.finals.get(tiles) or self._logged.get(tiles)
        return outcome if outcome is not None and outcome.run_secs else None

    def _median(self, tiles: Tiles) -> float | None:
        outcome = self._outcome(tiles)
        return None if outcome is None else float(np.median(outcome.run_secs))

    def _figure(self, tiles: Tiles) -> meta.Figure | None:
        outcome = self._outcome(tiles)
        if outcome is None:
            return None
        figures = outcome.run_secs
        return meta.Figure(
            parameters=to_numbers(tiles),
            median=float(np.median(figures)),
            low=min(figures),
            high=max(figures),
            samples=len(figures),
        )
