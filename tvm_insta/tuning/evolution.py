"""MetaSchedule's evolutionary search with its XGBoost cost model, over our parameters.

The space is a ScheduleFn that samples one categorical value per parameter and notes it on the root
block; the loops stay as they are. A post-processor refuses combinations that are no choice, and a
mutator changes one parameter. Only the feature extractor applies our schedules, for the cost model
has to see the loops that would run; it keeps what it computed, for the space is small.

Two parts of MetaSchedule stand in the way and are not used. Its builder and tuner import
`tvm.s_tir.tensor_intrin`, 17 seconds per process for intrinsics that no schedule here has; and its
tuning loop measures again what an earlier run measured. So the sweep has its own loop and workers.
"""

from __future__ import annotations

import logging
import random
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm.s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from tvm_insta.schedules import Tiles
from tvm_insta.target import InstaTarget
from tvm_insta.tuning.cost_model import PREFIX, Loops, Model, parameters_of
from tvm_insta.tuning.records import FAILED, values_of
from tvm_insta.tuning.runner import Outcome
from tvm_insta.tuning.tasks import Task

_INTRINSICS = "tvm.s_tir.tensor_intrin"
_POPULATION = 32
_GENERATIONS = 3
_MAX_TRIALS = 1 << 20  # the sweep ends the search, not the search itself
_QUIET = logging.getLogger("tvm_insta.tuning.search")


class EvolutionarySearch:
    """See `search.Search`.

    Args:
        task: what to search for.
        target: what the schedules are for.
        batch: parameters proposed at a time.
        seed: in [1, 2^31 - 1].
        default: outcome of the default parameters.
    """

    def __init__(
        self, task: Task, target: InstaTarget, batch: int, seed: int, default: Outcome
    ) -> None:
        logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.WARNING)
        _QUIET.setLevel(logging.WARNING)
        self._task, self._target, self._batch = task, target.tvm, batch
        self._seen: set[Tiles] = {task.default}
        values = values_of(task.choices)

        def space(schedule: Schedule) -> None:
            root = schedule.get_sblock("root")
            for name, listed in values.items():
                chosen = schedule.sample_categorical(listed, [1.0 / len(listed)] * len(listed))
                schedule.annotate(root, PREFIX + name, chosen)

        self._rest = random.Random(seed)
        with _without_intrinsics():
            self._context = ms.TuneContext(
                task.mod,
                target=self._target,
                space_generator=ms.space_generator.ScheduleFn(
                    space,
                    sch_rules=[],
                    postprocs=[_OnlyChoices(frozenset(task.choices))],
                    mutator_probs={_ChangeOne([len(v) for v in values.values()], seed): 1.0},
                ),
                search_strategy=ms.search_strategy.EvolutionarySearch(
                    population_size=_POPULATION,
                    init_measured_ratio=0.25,
                    init_min_unmeasured=min(batch, len(task.choices)),
                    max_fail_count=50,
                    genetic_num_iters=_GENERATIONS,
                    eps_greedy=0.1,
                ),
                task_name=task.name,
                rand_state=seed,
                num_threads=1,  # one thread, one order of random numbers
                logger=_QUIET,
            )
        self._model = Model(Loops(task, target), seed)
        self._database = ms.database.MemoryDatabase()
        self._workload = self._database.commit_workload(task.mod)
        self._strategy = self._context.search_strategy
        self._spaces = self._context.generate_design_space()
        self._strategy.pre_tuning(_MAX_TRIALS, batch, self._spaces, self._database, self._model)
        self._proposed: list[Any] = []
        self._learn([self._candidate(task.default)], [default])

    def propose(self) -> list[Tiles]:
        """See `search.Search.propose`."""
        found = self._strategy.generate_measure_candidates()
        self._proposed = list(found or [])
        batch = [parameters_of(candidate.sch) for candidate in self._proposed]
        fresh = [tiles for tiles in dict.fromkeys(batch) if tiles not in self._seen]
        if len(fresh) < self._batch:  # the population has converged: random choices fill the batch
            rest = [t for t in self._task.choices if t not in self._seen and t not in fresh]
            fresh += self._rest.sample(rest, min(len(rest), self._batch - len(fresh)))
        self._seen.update(fresh)
        return list(fresh)

    def learn(self, outcomes: Sequence[tuple[Tiles, Outcome]]) -> None:
        """See `search.Search.learn`."""
        known = dict(outcomes)
        own = {parameters_of(candidate.sch): candidate for candidate in self._proposed}
        candidates = [own.get(tiles) or self._candidate(tiles) for tiles in known]
        if self._proposed:
            # The strategy wants an answer for each of its own; one that it proposed before is told
            # as failed, which changes nothing but its count.
            told = [
                _result(known.get(parameters_of(candidate.sch), Outcome(error="proposed before")))
                for candidate in self._proposed
            ]
            self._strategy.notify_runner_results(self._proposed, told)
        self._learn(candidates, list(known.values()))

    def _learn(self, candidates: list[Any], outcomes: list[Outcome]) -> None:
        results = [_result(outcome) for outcome in outcomes]
        for candidate, outcome in zip(candidates, outcomes, strict=True):
            figures = list(outcome.run_secs) or [FAILED]
            self._database.commit_tuning_record(
                ms.database.TuningRecord(
                    candidate.sch.trace,
                    self._workload,
                    figures,
                    self._target,
                    candidate.args_info,
                )
            )
        self._model.update(self._context, candidates, results)

    def _candidate(self, tiles: Tiles) -> Any:
        """The candidate that has these parameters."""
        schedule = Schedule(self._task.mod)
        root = schedule.get_sblock("root")
        for name, listed in values_of(self._task.choices).items():
            index = listed.index(int(getattr(tiles, name)))
            odds = [1.0 / len(listed)] * len(listed)
            chosen = schedule.sample_categorical(listed, odds, decision=index)
            schedule.annotate(root, PREFIX + name, chosen)
        arguments = ms.arg_info.ArgInfo.from_entry_func(self._task.mod)
        return ms.search_strategy.MeasureCandidate(schedule, arguments)


def _result(outcome: Outcome) -> Any:
    return ms.runner.RunnerResult(list(outcome.run_secs) or None, outcome.error or None)


@derived_object
class _OnlyChoices(ms.postproc.PyPostproc):  # type: ignore[misc]
    """Refuses combinations of values that are no choice."""

    def __init__(self, choices: frozenset[Tiles]) -> None:
        super().__init__()
        self.choices = choices

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing to do."""

    def apply(self, schedule: Schedule) -> bool:
        """Whether the schedule's parameters are a choice."""
        return parameters_of(schedule) in self.choices

    def clone(self) -> Any:
        """Another one."""
        return _OnlyChoices(self.choices)


@derived_object
class _ChangeOne(ms.mutator.PyMutator):  # type: ignore[misc]
    """Gives one parameter another value, half of the time a neighbouring one."""

    def __init__(self, counts: list[int], seed: int) -> None:
        super().__init__()
        self.counts, self.seed = counts, seed
        self.random = random.Random(seed)

    def _initialize_with_tune_context(self, context: Any) -> None:
        """Nothing to do."""

    def apply(self, trace: Any, _: Any) -> Any:
        """The trace with another decision, None if no parameter has a second value."""
        sampled = [i for i in trace.insts if i.kind.name == "SampleCategorical"]
        several = [number for number, count in enumerate(self.counts) if count > 1]
        if not several:
            return None
        number = self.random.choice(several)
        now, count = int(trace.decisions[sampled[number]]), self.counts[number]
        if self.random.random() < 0.5:
            near = [v for v in (now - 1, now + 1) if 0 <= v < count]
        else:
            near = [v for v in range(count) if v != now]
        return trace.with_decision(sampled[number], self.random.choice(near), True)

    def clone(self) -> Any:
        """Another one with random numbers of its own."""
        return _ChangeOne(self.counts, self.seed + 1)


@contextmanager
def _without_intrinsics() -> Iterator[None]:
    """Let TuneContext import an empty module in place of TVM's tensor intrinsics."""
    if _INTRINSICS in sys.modules:
        yield
        return
    empty = types.ModuleType(_INTRINSICS)
    sys.modules[_INTRINSICS] = empty
    had = hasattr(tvm.s_tir, "tensor_intrin")
    try:
        yield
    finally:
        del sys.modules[_INTRINSICS]
        if not had and getattr(tvm.s_tir, "tensor_intrin", None) is empty:
            del tvm.s_tir.tensor_intrin
