"""The sweep: what it measures, in which order, and how it goes on after an interruption."""

from __future__ import annotations

import json

import pytest

from tests.tuning import tiny
from tvm_insta.errors import TuneError
from tvm_insta.tuning.log import RECORDS, TRIALS, TuningLog
from tvm_insta.tuning.lookup import look_up
from tvm_insta.tuning.options import SweepOptions
from tvm_insta.tuning.records import best_record


@pytest.fixture(scope="module")
def both():
    return tiny.tasks()


def trials(logs, final=False):
    text = (tiny.folder(logs) / TRIALS).read_text(encoding="utf-8")
    entries = [json.loads(line) for line in text.splitlines()]
    return [
        (e["workload"], tuple(e["parameters"].values())) for e in entries if e["final"] == final
    ]


def test_tasks_are_distinct_kernels_with_their_calls(both):
    binary, real = both
    assert (binary.rule, binary.calls) == ("insta_bconv", 2)
    assert (real.rule, real.calls) == ("insta_fconv", 1)
    assert binary.key != real.key
    assert binary.layers and binary.macs == 10_000


def test_a_symbolic_batch_is_the_same_task(both):
    assert [t.key for t in tiny.tasks(batch=None)] == [t.key for t in both]


def test_another_shape_is_another_task(both):
    assert not {t.key for t in tiny.tasks(side=4)} & {t.key for t in both}


def test_the_default_comes_first_and_the_best_is_found(tmp_path, both):
    runner = tiny.RecordedRunner()
    tuned = tiny.sweep(tmp_path, runner, chosen=both, trials=64)
    assert [tiles for _, tiles in runner.measured[:2]] == [task.default for task in both]
    assert len(runner.measured) == len(set(runner.measured)) == 64
    for state in tuned.states:
        tiles, median = state.best
        assert median == min(map(tiny.cost, state.task.choices)) == tiny.cost(tiles)


@pytest.mark.parametrize("search", ["evolutionary", "random"])
def test_the_same_seed_and_costs_give_the_same_sequence(tmp_path, both, search):
    def sequence(name, seed):
        runner = tiny.RecordedRunner()
        tiny.sweep(tmp_path / name, runner, chosen=both, trials=40, seed=seed, search=search)
        return runner.measured

    first = sequence("a", 3)
    assert sequence("b", 3) == first
    assert sequence("c", 4) != first


@pytest.mark.parametrize("after", [1, 19])
def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path, both, after):
    """The sequence is that of a sweep that was not interrupted, and nothing is measured twice."""
    whole = tiny.RecordedRunner()
    tiny.sweep(tmp_path / "whole", whole, chosen=both, trials=40, seed=1)
    first = tiny.RecordedRunner(stop_after=after)
    with pytest.raises(KeyboardInterrupt):
        tiny.sweep(tmp_path / "cut", first, chosen=both, trials=40, seed=1)
    second = tiny.RecordedRunner()
    tiny.sweep(tmp_path / "cut", second, chosen=both, trials=40, resume=True)
    assert first.measured + second.measured == whole.measured
    assert trials(tmp_path / "cut") == trials(tmp_path / "whole")
    table = RECORDS
    one, other = ((tiny.folder(tmp_path / n) / table).read_text() for n in ("cut", "whole"))
    assert one == other


def test_a_finished_sweep_measures_nothing_again(tmp_path, both):
    tiny.sweep(tmp_path, tiny.RecordedRunner(), chosen=both, trials=24, search="random")
    again = tiny.RecordedRunner()
    tiny.sweep(tmp_path, again, chosen=both, trials=24, resume=True, search="random")
    assert (again.measured, again.finals, again.prepared) == ([], 0, [])


def test_more_trials_continue_the_search(tmp_path, both):
    """Also where the limit fell into the middle of a batch."""
    whole, short, more = (tiny.RecordedRunner() for _ in range(3))
    tiny.sweep(tmp_path / "whole", whole, chosen=both[:1], trials=30)
    tiny.sweep(tmp_path / "steps", short, chosen=both[:1], trials=12)
    tiny.sweep(tmp_path / "steps", more, chosen=both[:1], trials=30, resume=True)
    assert len(short.measured) == 12
    assert short.measured + more.measured == whole.measured


def test_trials_of_another_seed_are_not_continued(tmp_path, both):
    tiny.sweep(tmp_path, tiny.RecordedRunner(), chosen=both, trials=10, seed=1)
    with pytest.raises(TuneError, match="got --search-seed 2, but the trials of"):
        tiny.sweep(tmp_path, tiny.RecordedRunner(), chosen=both, trials=20, seed=2, resume=True)


def test_a_folder_with_trials_needs_resume(tmp_path, both):
    tiny.sweep(tmp_path, tiny.RecordedRunner(), chosen=both, trials=10, search="random")
    with pytest.raises(TuneError, match="holds 10 trials of these layers already: pass --resume"):
        tiny.sweep(tmp_path, tiny.RecordedRunner(), chosen=both, trials=20, search="random")
    # Other layers of the same target may join without.
    other = tiny.tasks(side=4)
    tuned = tiny.sweep(tmp_path, tiny.RecordedRunner(), chosen=other, trials=10, search="random")
    assert len(tuned.meta.tasks) == 4


def test_failed_candidates_are_recorded_and_never_chosen(tmp_path, both):
    best = min(both[0].choices, key=tiny.cost)
    runner = tiny.RecordedRunner(broken=lambda tiles: tiny.cost(tiles) == tiny.cost(best))
    tuned = tiny.sweep(tmp_path, runner, chosen=both[:1], trials=200, search="random")
    (state,) = tuned.states
    assert state.best[1] > tiny.cost(best)
    about = tuned.meta.tasks[both[0].key]
    assert about.failed >= 1 and about.trials == len(both[0].choices)
    records = TuningLog(tiny.folder(tmp_path)).records
    assert sum(record.failed for record in records) == about.failed
    assert best_record(records).median > tiny.cost(best)


def test_a_candidate_that_fails_only_in_the_final_comparison_is_not_chosen(tmp_path, both):
    """A wrong result that shows now and then is a wrong result."""
    best = min(both[0].choices, key=tiny.cost)

    class Flaky(tiny.RecordedRunner):
        def measure(self, task, candidates, repeats):
            self.broken = lambda tiles: repeats != 5 and tiles == best
            yield from super().measure(task, candidates, repeats)

    tuned = tiny.sweep(tmp_path, Flaky(), chosen=both[:1], trials=200, search="random")
    assert tuned.states[0].best[0] != best
    assert best_record(TuningLog(tiny.folder(tmp_path)).records).tiles == tuned.states[0].best[0]


def test_a_default_that_fails_ends_the_sweep_and_is_tried_again(tmp_path, both):
    default = both[0].default
    with pytest.raises(TuneError, match=r"the default schedule of .* does not work"):
        tiny.sweep(
            tmp_path,
            tiny.RecordedRunner(broken=lambda tiles: tiles == default),
            chosen=both[:1],
            trials=8,
        )

    class DefaultIsBest(tiny.RecordedRunner):
        def measure(self, task, candidates, repeats):
            for tiles, outcome in super().measure(task, candidates, repeats):
                quick = tiny.Outcome((1e-9,) * repeats, "table")
                yield tiles, quick if tiles == default else outcome

    tuned = tiny.sweep(tmp_path, DefaultIsBest(), chosen=both[:1], trials=8, resume=True)
    (state,) = tuned.states
    assert state.kept_default and state.default == 1e-9
    # What failed on a busy machine counts no more once it was measured: for the compiler, too.
    assert look_up(tiny.network(), tiny.NATIVE, tmp_path).parameters[both[0].name] == default


def test_the_luckiest_trial_is_not_believed(tmp_path, both):
    """Trials look far too good; the comparison measures the best three again, and only that counts.

    Two of the lucky ones are not among the three: what was not compared is not believed either.
    """
    lucky = both[0].choices[-5:]

    class Lucky(tiny.RecordedRunner):
        def measure(self, task, candidates, repeats):
            for tiles, outcome in super().measure(task, candidates, repeats):
                if tiles in lucky and repeats == 5:
                    yield tiles, tiny.Outcome((1e-9,) * 5, "table")
                else:
                    yield tiles, outcome

    tuned = tiny.sweep(tmp_path, Lucky(), chosen=both[:1], trials=200, search="random")
    (state,) = tuned.states
    best = best_record(TuningLog(tiny.folder(tmp_path)).records)
    assert best.median == tiny.cost(best.tiles) > 1e-9 and best.final
    assert state.best == (best.tiles, best.median)


def test_time_limits_end_a_sweep(tmp_path, both):
    """A tick per trial; a log that is far from done still has its comparison."""
    from tvm_insta.tuning.log import TuningLog as Log
    from tvm_insta.tuning.log import locked, new_meta
    from tvm_insta.tuning.sweep import run_sweep

    now = [0.0]

    class Slow(tiny.RecordedRunner):
        def measure(self, task, candidates, repeats):
            for found in super().measure(task, candidates, repeats):
                now[0] += 10.0
                yield found

    runner, at = Slow(), tiny.folder(tmp_path)
    with locked(at):
        about = new_meta(tiny.NATIVE, "recorded", "seconds", 1, "cpu", "tvm")
        options = SweepOptions(minutes=3, final_repeats=9)
        run_sweep(
            both, tiny.NATIVE, runner, Log(at), about, options, tiny.Silent(), clock=lambda: now[0]
        )
    assert len(runner.measured) == 18
    assert runner.finals > 0


@pytest.mark.parametrize(
    "wrong", [{"trials": 0}, {"minutes": -1.0}, {"batch": 0}, {"search": "grid"}]
)
def test_options_check_themselves(wrong):
    with pytest.raises(TuneError, match=f"got {next(iter(wrong))}"):
        SweepOptions(**wrong)
