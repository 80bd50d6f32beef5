"""Searches: which parameters to try next.

A search proposes a batch, then learns its outcomes. With the same seed and the same outcomes it
proposes the same parameters: that is how an interrupted sweep goes on, by proposing what was
measured already and learning it from the log.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from tvm_insta.errors import TuneError
from tvm_insta.schedules import Tiles
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.runner import Outcome
from tvm_insta.tuning.tasks import Task

SEARCHES = ("evolutionary", "random")


class Search(Protocol):
    """Proposes and learns, in turns."""

    def propose(self) -> list[Tiles]:
        """The next batch, without repeats; empty when every choice was proposed."""

    def learn(self, outcomes: Sequence[tuple[Tiles, Outcome]]) -> None:
        """Take the outcomes of the last batch, in its order."""


class RandomSearch:
    """Every choice once, in random order."""

    def __init__(self, space: Sequence[Tiles], batch: int, seed: int) -> None:
        self._left = list(space)
        random.Random(seed).shuffle(self._left)
        self._batch = batch

    def propose(self) -> list[Tiles]:
        """See `Search.propose`."""
        head, self._left = self._left[: self._batch], self._left[self._batch :]
        return head

    def learn(self, outcomes: Sequence[tuple[Tiles, Outcome]]) -> None:
        """Nothing to learn."""


def make_search(
    kind: str,
    task: Task,
    target: InstaTarget,
    *,
    batch: int,
    seed: int,
    default: Outcome,
) -> Search:
    """A search over the choices of a task, apart from its default, whose outcome is known.

    Args:
        kind: one of `SEARCHES`.
        task: what to search for.
        target: for the features of the cost model.
        batch: parameters proposed at a time.
        seed: of the sweep; each task has random numbers of its own.
        default: outcome of the default parameters.

    Raises:
        TuneError: an unknown kind, or the evolutionary search without XGBoost.
    """
    own = (seed * 1_000_003 + int(task.key)) % (2**31 - 2) + 1
    if kind == "random":
        return RandomSearch([t for t in task.choices if t != task.default], batch, own)
    if kind != "evolutionary":
        raise TuneError(f"got search {kind!r}, but it must be one of {', '.join(SEARCHES)}")
    try:
        import xgboost  # noqa: F401
    except ImportError as error:
        raise TuneError(
            "the evolutionary search needs XGBoost for its cost model: run pip install "
            '"tvm-insta[tune]", or choose --search random'
        ) from error
    from tvm_insta.tuning.evolution import EvolutionarySearch

    return EvolutionarySearch(task, target, batch, own, default)
