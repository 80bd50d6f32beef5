"""The sweep: measures the default of every task, searches where most can be gained, compares times.

Every trial is in the log before the next begins, and is looked up there before it is measured. A
sweep that was interrupted goes on by running again with the same seed: the searches propose what
they proposed, and learn it from the log until they reach what is new.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

from tvm_insta.errors import TuneError
from tvm_insta.schedules import SCHEDULE_VERSION, Tiles
from tvm_insta.target import InstaTarget
from tvm_insta.tuning import meta
from tvm_insta.tuning.log import TuningLog
from tvm_insta.tuning.options import DEFAULT_TRIALS, Progress, SweepOptions
from tvm_insta.tuning.runner import Outcome, Runner
from tvm_insta.tuning.state import TaskState
from tvm_insta.tuning.tasks import Task
from tvm_insta.tuning.workload import codes_of

_FINAL_ROUNDS = 3
# A default and three of its rivals; the rivals are the best of many trials, that is, also the
# luckiest, so they are measured again, taking turns with the default.
_FINALISTS = 3


def run_sweep(
    tasks: Sequence[Task],
    target: InstaTarget,
    runner: Runner,
    log: TuningLog,
    about: meta.Meta,
    options: SweepOptions,
    progress: Progress,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[meta.Meta, list[TaskState]]:
    """Tune the tasks; the caller holds the log's lock.

    Args:
        tasks: at least one.
        target: of the log.
        runner: measures.
        log: read with `repair`.
        about: the log's meta data; the result brings it up to date.
        options: limits and search.
        progress: is told what happens.
        clock: seconds.

    Returns:
        The meta data, which is on disk, too, and the states of the tasks.

    Raises:
        TuneError: the log holds trials of these tasks and `resume` is not set, or it was searched
            otherwise; or the default of a task does not work.
        LogError: the log cannot be written.
    """
    sweep = _Sweep(tasks, target, runner, log, about, options, progress, clock)
    try:
        sweep.run()
    finally:
        about = sweep.write_meta()
    return about, sweep.states


class _Sweep:
    def __init__(
        self,
        tasks: Sequence[Task],
        target: InstaTarget,
        runner: Runner,
        log: TuningLog,
        about: meta.Meta,
        options: SweepOptions,
        progress: Progress,
        clock: Callable[[], float],
    ) -> None:
        if not tasks:
            raise TuneError("no layer has parameters to tune: nothing to do for this network")
        self.target, self.runner, self.log = target, runner, log
        self.about, self.options, self.progress, self.clock = about, options, progress, clock
        self.end = None if options.minutes is None else clock() + 60 * options.minutes
        self.trials = options.trials
        if options.trials is None and options.minutes is None:
            self.trials = DEFAULT_TRIALS * len(tasks)
        self.states = [self._state(task) for task in tasks]
        there = sum(state.recorded for state in self.states)
        if there and not options.resume:
            raise TuneError(
                f"{log.folder} holds {there} trials of these layers already: pass --resume to go "
                "on with them, or --log-dir for a new folder"
            )

    def _state(self, task: Task) -> TaskState:
        options, before = self.options, self.about.tasks.get(task.key)
        records = [r for r in self.log.of(task, self.target) if r.version == SCHEDULE_VERSION]
        seed = options.seed
        if before is not None and records:
            for name, asked, made in (
                ("search-seed", seed, before.seed),
                ("search", options.search, before.search),
                ("batch", options.batch, before.batch),
            ):
                if asked not in (None, made):
                    raise TuneError(
                        f"got --{name} {asked}, but the trials of {task.label} in "
                        f"{self.log.folder} were searched with {made}: ask for that to go on with "
                        "them, or pass --log-dir for a new folder"
                    )
        if before is not None and seed is None and options.resume:
            seed = before.seed
        rates = {"insta_bconv": "binary_gmacs", "insta_fconv": "float_gmacs"}
        peak = None  # of layers in narrow numbers, which float32 does not limit, and of tiles
        known = task.rule in rates and codes_of(task.mod["main"]) is None
        if self.about.peak is not None and known and self.runner.unit == "seconds":
            peak = self.about.threads * float(getattr(self.about.peak, rates[task.rule]))
        return TaskState(
            task,
            records,
            self.log.devices(task.key),
            seed=seed or 0,
            search=options.search,
            batch=options.batch,
            peak=peak,
        )

    def run(self) -> None:
        self.progress.begin(
            self.states, self.trials, None if self.end is None else self.end - self.clock()
        )
        self.write_meta()  # the seed has to be known, whenever this is killed
        self.progress.phase("defaults")
        for state in self.states:
            if not self._left():
                break
            self._default(state)
        self.write_meta()
        self.progress.phase("search")
        while self._left() and (next_one := self._most_promising()) is not None:
            self._batch(next_one)
        if self.runner.unit != "seconds":
            return  # counts do not vary: to take them again would tell nothing
        self.progress.phase("final comparison")
        for state in self.states:
            self._compare(state)

    def _left(self) -> int:
        """Trials that may still be made: 0 when the time is over."""
        if self.end is not None and self.clock() >= self.end:
            return 0
        if self.trials is None:
            return 1 << 30
        return max(0, self.trials - sum(state.tried for state in self.states))

    def _most_promising(self) -> TaskState | None:
        """The task where the next trials may save most of a network's time."""
        open_ones = [state for state in self.states if state.searching]
        return max(open_ones, key=TaskState.gain, default=None)

    def _default(self, state: TaskState) -> None:
        state.forget_failed_default()
        ((_, outcome),) = self._outcomes(state, [state.task.default])
        if outcome.error:
            raise TuneError(
                f"the default schedule of {state.task.label} does not work: {outcome.error}"
            )
        state.start(self.target, outcome)

    def _batch(self, state: TaskState) -> None:
        proposed = state.propose()
        new = [tiles for tiles in proposed if state.recorded_outcome(tiles) is None]
        over = set(new[self._left() :])
        known = dict(self._outcomes(state, [tiles for tiles in proposed if tiles not in over]))
        if len(known) == len(proposed):
            state.learn([(tiles, known[tiles]) for tiles in proposed])
        else:
            state.searching = False  # out of trials or time in the middle of a batch

    def _outcomes(
        self, state: TaskState, wanted: Sequence[Tiles]
    ) -> Iterable[tuple[Tiles, Outcome]]:
        """Outcomes from the log where it has them, measured and logged where not."""
        new = []
        for tiles in wanted:
            outcome = state.recorded_outcome(tiles)
            if outcome is None:
                new.append(tiles)
            else:
                state.tell(tiles, outcome)
                self.progress.trial(state, outcome, measured=False)
                yield tiles, outcome
        if not new:
            return
        self._prepare(state)
        for tiles, outcome in self.runner.measure(state.task, new, self.options.repeats):
            state.records.append(self.log.append(state.task, self.target, tiles, outcome))
            state.tell(tiles, outcome)
            self.progress.trial(state, outcome, measured=True)
            yield tiles, outcome
            if self.end is not None and self.clock() >= self.end:
                return

    def _prepare(self, state: TaskState) -> None:
        if not state.prepared:
            self.runner.prepare(state.task)
            state.prepared = True

    def _compare(self, state: TaskState) -> None:
        """Measure the default and its best rivals again, in turns, if they were not yet."""
        finalists = state.finalists(_FINALISTS)
        missing = [tiles for tiles in finalists if tiles not in state.finals]
        if len(finalists) < 2 or not missing:
            return
        self._prepare(state)
        figures: dict[Tiles, list[float]] = {tiles: [] for tiles in finalists}
        devices: dict[Tiles, str] = {}
        failed: dict[Tiles, Outcome] = {}
        repeats = max(1, self.options.final_repeats // _FINAL_ROUNDS)
        for _ in range(_FINAL_ROUNDS):
            alive = [tiles for tiles in finalists if tiles not in failed]
            for tiles, outcome in self.runner.measure(state.task, alive, repeats):
                figures[tiles] += outcome.run_secs
                devices[tiles] = outcome.device
                if outcome.error:
                    failed[tiles] = outcome
        for tiles in finalists:
            outcome = failed.get(tiles) or Outcome(tuple(figures[tiles]), devices[tiles])
            record = self.log.append(state.task, self.target, tiles, outcome, final=True)
            state.records.append(record)
            state.finals[tiles] = outcome

    def write_meta(self) -> meta.Meta:
        """Bring the meta data up to date, on disk too."""
        tasks = dict(self.about.tasks)
        for state in self.states:
            tasks[state.task.key] = state.describe()
        self.about = dataclasses.replace(self.about, tasks=tasks, schedule_version=SCHEDULE_VERSION)
        meta.write(self.log.folder, self.about)
        return self.about
