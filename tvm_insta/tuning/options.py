"""What a sweep may cost, and whom it tells what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tvm_insta.errors import TuneError
from tvm_insta.tuning.runner import Outcome
from tvm_insta.tuning.search import SEARCHES
from tvm_insta.tuning.state import TaskState

DEFAULT_TRIALS = 48
"""Per task, where neither trials nor minutes are given."""


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep may cost, and how it searches.

    Attributes:
        trials: of all tasks together, those in the log included; None for no limit.
        minutes: after which no trial of this run begins; None for no limit. The final comparison
            comes on top, a second or two for each task.
        seed: of the searches; None takes the log's, or 0.
        search: one of `search.SEARCHES`.
        batch: trials between two proposals.
        repeats: of a trial.
        final_repeats: of each finalist, in three rounds.
        resume: go on with what the log holds of these tasks.
    """

    trials: int | None = None
    minutes: float | None = None
    seed: int | None = None
    search: str = "evolutionary"
    batch: int = 4
    repeats: int = 5
    final_repeats: int = 15
    resume: bool = False

    def __post_init__(self) -> None:
        for name, value in (
            ("trials", self.trials),
            ("minutes", self.minutes),
            ("batch", self.batch),
            ("repeats", self.repeats),
            ("final_repeats", self.final_repeats),
        ):
            if value is not None and value <= 0:
                raise TuneError(f"got {name} {value}, but it must be more than 0")
        if self.search not in SEARCHES:
            raise TuneError(
                f"got search {self.search!r}, but it must be one of {', '.join(SEARCHES)}"
            )


class Progress(Protocol):
    """Told what a sweep does."""

    def begin(self, states: Sequence[TaskState], trials: int | None, seconds: float | None) -> None:
        """The tasks are known, and what they may cost."""

    def trial(self, state: TaskState, outcome: Outcome, *, measured: bool) -> None:
        """A trial is in the log; it was measured now, or was there."""

    def phase(self, text: str) -> None:
        """Another phase begins."""
