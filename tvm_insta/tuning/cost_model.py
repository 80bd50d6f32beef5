"""The search's cost model: XGBoost on the features of the loops that would run."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from tvm_insta.schedules import Tiles, schedule_module
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.records import to_tiles
from tvm_insta.tuning.tasks import Task

PREFIX = "insta."
"""Of the notes on the root block of a candidate."""

_WARM_UP = 8  # outcomes before the model's word counts


def parameters_of(schedule: Schedule) -> Tiles:
    """The parameters that a candidate's root block notes."""
    notes = schedule.get(schedule.get_sblock("root")).annotations
    noted = {str(key): value for key, value in notes.items()}
    names = [key for key in noted if key.startswith(PREFIX)]
    tiles = to_tiles({key.removeprefix(PREFIX): int(noted[key]) for key in names})
    assert tiles is not None
    return tiles


@derived_object
class Loops(ms.feature_extractor.PyFeatureExtractor):  # type: ignore[misc]
    """MetaSchedule's features of the loops that the parameters lead to."""

    def __init__(self, task: Task, target: InstaTarget) -> None:
        super().__init__()
        self.task, self.target = task, target
        self.inner = ms.feature_extractor.PerStoreFeature()
        self.known: dict[Tiles, Any] = {}

    def extract_from(self, context: Any, candidates: list[Any]) -> list[Any]:
        """One array [stores, features] per candidate."""
        return [self._features(context, candidate) for candidate in candidates]

    def _features(self, context: Any, candidate: Any) -> Any:
        tiles = parameters_of(candidate.sch)
        if tiles not in self.known:
            mod, _ = schedule_module(
                self.task.mod,
                self.target.tvm,
                lanes=self.target.lanes,
                parameters={"main": tiles},
            )
            applied = ms.search_strategy.MeasureCandidate(Schedule(mod), candidate.args_info)
            (self.known[tiles],) = self.inner.extract_from(context, [applied])
        return self.known[tiles]


@derived_object
class Model(ms.cost_model.PyCostModel):  # type: ignore[misc]
    """XGBModel, which guesses with random numbers of its own until it has seen enough.

    MetaSchedule's guesses for the first hundred outcomes with numpy's global random numbers.
    """

    def __init__(self, extractor: Any, seed: int) -> None:
        super().__init__()
        self.extractor = extractor
        self.random = np.random.default_rng(seed)
        self.seen = 0
        self.inner = ms.cost_model.XGBModel(
            extractor=extractor,
            config=ms.cost_model.xgb_model.XGBConfig(seed=seed, nthread=1),
            num_warmup_samples=0,
            early_stopping_rounds=20,
            adaptive_training=False,
        )

    def load(self, path: str) -> None:
        """Not needed: a model lives as long as its search."""

    def save(self, path: str) -> None:
        """Not needed: a model lives as long as its search."""

    def update(self, context: Any, candidates: list[Any], results: list[Any]) -> None:
        """Train again with all outcomes."""
        self.seen += len(candidates)
        self.inner.update(context, candidates, results)

    def predict(self, context: Any, candidates: list[Any]) -> Any:
        """A score per candidate, more is better."""
        if self.seen < _WARM_UP:
            return self.random.random(len(candidates))
        return self.inner.predict(context, candidates)
