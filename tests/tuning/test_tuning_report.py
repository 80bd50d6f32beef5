"""What people see of a sweep: bars, lines, the table, the page and the plot."""

from __future__ import annotations

import io
import re

import pytest

from tests.tuning import tiny
from tvm_insta.report.tuning import PAGE, sweep_lines, write_report
from tvm_insta.tuning.progress import SweepBar
from tvm_insta.tuning.runner import Outcome
from tvm_insta.tuning.state import TaskState


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    now = [100.0]

    def read():
        return now[0]

    read.now = now
    return read


@pytest.fixture(scope="module")
def task():
    return tiny.tasks()[0]


def state_of(task, peak=100.0):
    return TaskState(task, [], {}, seed=0, search="random", batch=8, peak=peak)


def outcome(seconds):
    return Outcome((seconds,) * 5, "table")


def test_plain_lines_tell_rate_share_and_estimate(task, clock):
    stream = io.StringIO()
    bar, state = SweepBar(stream=stream, clock=clock), state_of(task)
    bar.begin([state], 5, None)
    bar.phase("search")
    state.tell(task.choices[0], outcome(2e-7))
    clock.now[0] += 3.0
    bar.trial(state, outcome(2e-7), measured=True)
    bar.close()
    last = stream.getvalue().splitlines()[-1]
    # 10000 multiply-adds in 0.2 us are 50 GMAC/s; one trial took 3 s, and four are left.
    assert "[1/5] search (3 s, about 12 s to go)" in last
    choices = len(task.choices)
    assert f"1 of {choices} choices, best 50 GMAC/s (50% of the peak)" in last
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


def test_trials_from_the_log_do_not_count_for_the_estimate(task, clock):
    stream = io.StringIO()
    bar, state = SweepBar(stream=stream, clock=clock), state_of(task)
    bar.begin([state], 5, None)
    state.tell(task.choices[0], outcome(2e-7))
    clock.now[0] += 3.0
    bar.trial(state, outcome(2e-7), measured=False)
    assert "to go" not in stream.getvalue()


def test_a_time_limit_is_the_estimate(task, clock):
    stream = io.StringIO()
    bar, state = SweepBar(stream=stream, clock=clock), state_of(task)
    bar.begin([state], None, 60.0)
    clock.now[0] += 20.0
    bar.phase("search")
    assert "[0] search (20 s, about 40 s to go)" in stream.getvalue()


def test_plain_lines_are_few_and_name_failures(clock):
    task = tiny.tasks(side=24)[0]
    assert len(task.choices) >= 32
    stream = io.StringIO()
    bar, state = SweepBar(stream=stream, clock=clock), state_of(task)
    bar.begin([state], 40, None)
    for tiles in task.choices[:32]:
        state.tell(tiles, outcome(1e-6))
        bar.trial(state, outcome(1e-6), measured=True)
    assert 4 <= len(stream.getvalue().splitlines()) <= 6
    bar.trial(state, Outcome(error="run: wrong result"), measured=True)
    assert "a candidate failed: run: wrong result" in stream.getvalue()


def test_a_terminal_gets_a_bar_for_the_sweep_and_one_per_task(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    stream, both = Terminal(), [state_of(task) for task in tiny.tasks()]
    bar = SweepBar(stream=stream, clock=clock)
    bar.begin(both, 4, None)
    bar.phase("search")
    both[1].tell(both[1].task.choices[0], outcome(1e-6))
    bar.trial(both[1], outcome(1e-6), measured=True)
    drawn = stream.getvalue().rsplit("\x1b[3A", 1)[-1]
    lines = re.sub(r"\x1b\[2K", "", drawn).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("|#####...............| [1/4]")
    assert lines[1].startswith("|....................| ") and "net.bitserial" in lines[1]
    assert lines[2].split("|")[2].startswith(">net.conv2d")


def test_figures_that_are_no_time_say_so(task, clock):
    bar, state = SweepBar("instructions", stream=io.StringIO(), clock=clock), state_of(task, None)
    state.tell(task.choices[0], outcome(5e-6))  # 5000 instructions for 10000 multiply-adds
    assert bar.task_text(state).endswith("best 2.0 MAC/instruction")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    return tiny.sweep(folder, tiny.RecordedRunner(), trials=40, search="random")


def test_the_table_has_a_row_per_layer_and_the_sum(tuned):
    header, *rows, last, coverage = sweep_lines(tuned.meta, tuned.states)
    assert header.split()[:5] == ["layer", "calls", "before", "after", "after/before"]
    assert len(rows) == 2 and all("us" in row for row in rows)
    before = sum(s.task.calls * tiny.cost(s.task.default) for s in tuned.states)
    after = sum(s.task.calls * s.best[1] for s in tuned.states)
    assert after < before
    assert last == (
        f"these layers together: {1e6 * before:.1f} us before, {1e6 * after:.1f} us after "
        f"({after / before:.3f})"
    )
    space = sum(len(s.task.choices) for s in tuned.states)
    assert coverage.startswith(f"40 of {space} choices were measured")


@pytest.mark.parametrize(("trials", "best"), [(8, None), (1000, "default"), (1000, "other")])
def test_the_last_line_says_what_is_left_to_try(tmp_path, monkeypatch, trials, best):
    """An exhausted space is a result, and so is a default that nothing beats."""
    tasks = tiny.tasks()
    space = sum(len(task.choices) for task in tasks)
    if best == "default":
        defaults = [task.default for task in tasks]
        monkeypatch.setattr(tiny, "cost", lambda tiles: 1e-6 if tiles in defaults else 1e-5)
    tuned = tiny.sweep(
        tmp_path, tiny.RecordedRunner(), chosen=tasks, trials=trials, search="random"
    )
    *_, last = sweep_lines(tuned.meta, tuned.states)
    kept = 2 if best == "default" else sum(s.best[0] == s.task.default for s in tuned.states)
    assert last.endswith(f"{kept} of 2 kernels keep the default, which was the best already")
    if trials > space:
        assert last.startswith(f"the space is exhausted: all {space} choices were measured, ")
    else:
        assert last.startswith(f"8 of {space} choices were measured; ")


def test_the_page_holds_the_table_and_the_provenance(tuned, tmp_path):
    written = list(write_report(tmp_path / "new", tuned.meta, tuned.states))
    assert written == [f"wrote {tmp_path / 'new' / PAGE}"]
    page = (tmp_path / "new" / PAGE).read_text(encoding="utf-8")
    for state in tuned.states:
        assert state.task.layers[0] in page
        best = state.best[0]
        assert f"width_tile {best.width_tile}, out_tile {best.out_tile}" in page
    assert tuned.meta.cpu in page and "best so far / default" in page
    assert page.count("<path") == len(tuned.states)


def test_the_page_escapes_what_it_shows(tuned, tmp_path):
    from dataclasses import replace

    meta = replace(tuned.meta, target_text="<script>alert(1)</script>")
    list(write_report(tmp_path, meta, tuned.states))
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert page.count("alert(1)") == page.count("&lt;script&gt;alert(1)") > 0


def test_the_peak_is_an_upper_bound_for_gain(task):
    """A task at its peak has nothing to gain, whatever its share of the network's time."""
    full, slow = state_of(task, peak=100.0), state_of(task, peak=100.0)
    full.tell(task.choices[0], outcome(1e-7))  # 10000 in 0.1 us: 100 GMAC/s
    slow.tell(task.choices[0], outcome(2e-7))
    assert full.gain() == 0.0 < slow.gain()
