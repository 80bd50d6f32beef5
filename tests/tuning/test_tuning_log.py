"""Logs on disk: MetaSchedule reads them, damage is repaired or named, and two sweeps do not mix."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuning import tiny
from tvm_insta.errors import LogError
from tvm_insta.schedules import SCHEDULE_VERSION, BackEnd, ConvTiles
from tvm_insta.target import parse
from tvm_insta.tuning import curate, lookup, meta, records
from tvm_insta.tuning import log as logs_module
from tvm_insta.tuning.log import RECORDS, TRIALS, WORKLOADS, TuningLog, locked, new_meta
from tvm_insta.tuning.measure import WrongResultError, check
from tvm_insta.tuning.runner import Outcome, refused
from tvm_insta.tuning.state import TaskState
from tvm_insta.tuning.workload import from_json, to_json

BROKEN = 2  # trials that fail in the log below


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of logs with a finished sweep over both tiny tasks."""
    logs = tmp_path_factory.mktemp("made")
    left = [BROKEN]

    def broken(tiles):
        default = tiles in {task.default for task in tiny.tasks()}
        if default or tiles.row_band != 3 or not left[0]:
            return False
        left[0] -= 1
        return "wrong" if left[0] else "crashed"

    tiny.sweep(logs, tiny.RecordedRunner(broken=broken), trials=30, search="random")
    return logs


@pytest.fixture
def logs(made, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "logs")
    return tmp_path / "logs"


def test_workloads_come_back_from_json():
    for task in tiny.tasks():
        entry = json.loads(json.dumps(to_json(task.mod)))
        assert tvm_ffi.structural_equal(from_json(entry), task.mod)
        assert entry[0] == task.key


def test_metaschedule_loads_the_log(logs):
    """The same number of records, and MetaSchedule's own JSON of each is ours."""
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms

    folder = tiny.folder(logs)
    database = ms.database.JSONDatabase(work_dir=str(folder))
    ours = TuningLog(folder)
    assert len(database) == len(ours.records)
    theirs = {json.dumps(r.as_json(), sort_keys=True) for r in database.get_all_tuning_records()}
    assert {json.dumps(line[1], sort_keys=True) for line in ours.lines} == theirs
    task = tiny.tasks()[0]
    best = database.query_tuning_record(task.mod, tiny.NATIVE.tvm, task.name)
    schedule = Schedule(task.mod)
    best.trace.apply_to_schedule(schedule, remove_postproc=False)
    notes = schedule.get(schedule.get_sblock("root")).annotations
    fastest = min(
        (r for r in ours.records if r.key == task.key and not r.failed), key=lambda r: r.median
    )
    assert {k: int(notes["insta." + k]) for k in fastest.parameters} == dict(fastest.parameters)
    assert notes["insta.schedule_version"] == SCHEDULE_VERSION


def test_records_come_back(logs):
    log = TuningLog(tiny.folder(logs))
    assert sum(not record.final for record in log.records) == 30
    assert sum(record.failed for record in log.records) == BROKEN
    assert sum(record.wrong for record in log.records) == 1
    assert all(record.tiles is not None for record in log.records)
    assert log.messages == []


@pytest.mark.parametrize("name", [RECORDS, TRIALS])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_truncated_last_line_is_cut_off(logs, name, share):
    """Whatever part of the line is left, up to all of it but its end."""
    path = tiny.folder(logs) / name
    data = path.read_bytes()
    start = data[:-1].rfind(b"\n") + 1
    rest = max(1, int(share * (len(data) - 1 - start)))
    path.write_bytes(data[: start + rest])
    seen = TuningLog(tiny.folder(logs))
    assert f"the last line ({rest} bytes) is incomplete" in seen.messages[0]
    assert "is left out" in seen.messages[0]
    assert path.read_bytes() == data[: start + rest]
    repaired = TuningLog(tiny.folder(logs), repair=True)
    assert "was cut off" in repaired.messages[0]
    assert path.read_bytes() == data[:start]
    assert TuningLog(tiny.folder(logs)).messages == []


def test_a_truncated_workload_is_cut_off_and_measured_again(tmp_path):
    """A sweep killed while it writes its first workload."""
    folder = tiny.folder(tmp_path)
    folder.mkdir()
    (folder / WORKLOADS).write_bytes(b'["123", "AAA')
    said = []
    tuned = tiny.sweep(tmp_path, tiny.RecordedRunner(), trials=4, search="random", say=said.append)
    assert "database_workload.json: the last line (12 bytes)" in said[0]
    assert TuningLog(tuned.folder).keys == [task.key for task in tiny.tasks()]


def test_noise_in_the_last_line_is_cut_off(logs):
    """A disk that filled up, or lost power, may leave zeros."""
    path = tiny.folder(logs) / RECORDS
    data = path.read_bytes()
    path.write_bytes(data + b"\0\0\0\0")
    TuningLog(tiny.folder(logs), repair=True)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("line", "text", "said"),
    [
        (2, b'[0, [[["GetSBl', "line 2: no JSON"),
        (3, b'{"a": 1}', "line 3: not a tuning record"),
        (1, b"[7, [[[], []], [0.1], {}, []]]", "line 1: workload 7 is not in the workload table"),
        (2, b"[0, [[[], []], [-1.0], {}, []]]", "line 2: a time that is not a positive number"),
        (2, b"\xff\xfe", "line 2: no JSON"),
    ],
)
def test_damage_elsewhere_is_named_with_file_and_line(logs, line, text, said):
    path = tiny.folder(logs) / RECORDS
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = text
    path.write_bytes(b"\n".join(lines))
    for repair in (False, True):
        with pytest.raises(LogError, match=f"{RECORDS}, {said}"):
            TuningLog(tiny.folder(logs), repair=repair)
    with pytest.raises(LogError, match=RECORDS):
        lookup.look_up(tiny.network(), tiny.NATIVE, logs)


def test_a_damaged_workload_is_named(logs):
    path = tiny.folder(logs) / WORKLOADS
    lines = path.read_text().split("\n")
    entry = json.loads(lines[1])
    lines[1] = json.dumps([entry[0], entry[1][:400] + "AAAA" + entry[1][404:]])
    path.write_text("\n".join(lines))
    with pytest.raises(LogError, match=f"{WORKLOADS}, line 2: "):
        list(curate.check(tiny.folder(logs)))


def test_damaged_meta_data_is_named(logs):
    path = tiny.folder(logs) / "meta.json"
    path.write_text(path.read_text().replace('"threads": 1', '"threads": "one"'))
    with pytest.raises(LogError, match=r"meta.json cannot be read \(threads is a str"):
        list(curate.check(tiny.folder(logs)))


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    """The second is refused while the first lives, in another process, and let in afterwards."""
    folder = tiny.folder(tmp_path)
    code = (
        "import sys, pathlib\n"
        "from tvm_insta.tuning.log import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(LogError, match=rf"in use by another sweep \(process {other.pid}\)"):
            tiny.sweep(tmp_path, tiny.RecordedRunner(), trials=4)
    finally:
        other.kill()  # as hard as can be: the lock must not outlive its holder
        other.communicate()
    with locked(folder):
        pass


def test_the_compiler_takes_the_best(logs):
    found = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    log = TuningLog(tiny.folder(logs))
    assert set(found.states.values()) == {lookup.TUNED}
    for name, tiles in found.parameters.items():
        (task,) = [task for task in tiny.tasks() if task.name == name]
        best = records.best_record([r for r in log.records if r.key == task.key])
        assert tiles == best.tiles and best.final


def test_a_record_counts_from_the_next_compilation_on(logs):
    """A log is read once while its files stay as they are."""
    before = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    assert lookup.look_up(tiny.network(), tiny.NATIVE, logs) == before
    table = tiny.folder(logs) / RECORDS
    text = table.read_text()
    table.write_text("")
    assert lookup.look_up(tiny.network(), tiny.NATIVE, logs).parameters == {}
    table.write_text(text)
    assert lookup.look_up(tiny.network(), tiny.NATIVE, logs) == before


def test_a_dynamic_batch_uses_the_same_records(logs):
    one = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    assert lookup.look_up(tiny.network(batch=None), tiny.NATIVE, logs) == one


def test_other_shapes_stay_default(logs):
    assert lookup.look_up(tiny.network(side=4), tiny.NATIVE, logs) == lookup.Lookup()


def test_the_same_layer_with_another_epilogue_is_similar(logs):
    """Its parameters are used, but it is not called tuned."""
    tuned = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    found = lookup.look_up(tiny.network(relu=True), tiny.NATIVE, logs)
    assert set(found.states.values()) == {lookup.SIMILAR} and not found.medians
    binary = {name for name in tuned.parameters if "bitserial" in name}
    for name, tiles in found.parameters.items():
        (mine,) = binary if "bitserial" in name else set(tuned.parameters) - binary
        assert tiles == tuned.parameters[mine]
    assert lookup.look_up(tiny.network(relu=True, side=4), tiny.NATIVE, logs) == lookup.Lookup()


def test_records_of_another_schedule_version_are_stale(logs, monkeypatch):
    monkeypatch.setattr(lookup, "SCHEDULE_VERSION", SCHEDULE_VERSION + 1)
    found = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    assert found.parameters == {}
    assert set(found.states.values()) == {lookup.STALE}


def test_parameters_that_are_no_choice_any_more_are_stale(logs, monkeypatch):
    monkeypatch.setattr(BackEnd, "space", lambda *_: [ConvTiles(99, 1, 1)])
    found = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    assert set(found.states.values()) == {lookup.STALE}


def test_the_best_of_what_is_still_a_choice_counts(logs, monkeypatch):
    before = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    gone = set(before.parameters.values())
    space = BackEnd.space
    monkeypatch.setattr(
        BackEnd, "space", lambda *args: [tiles for tiles in space(*args) if tiles not in gone]
    )
    found = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    assert found.states == before.states and set(found.states.values()) == {lookup.TUNED}
    assert not gone & set(found.parameters.values())
    assert all(found.medians[name] > before.medians[name] for name in found.medians)


def test_records_of_another_target_are_not_applied(tmp_path):
    """Both have 4 lanes, so the workloads are equal, and only the target tells them apart."""
    sse, arm = parse("llvm -mtriple=x86_64-linux-gnu"), parse("rpi4")
    chosen = tiny.tasks(sse)
    assert [t.key for t in chosen] == [t.key for t in tiny.tasks(arm, words=True)]
    tiny.sweep(tmp_path, tiny.RecordedRunner(), target=sse, chosen=chosen, trials=8)
    assert set(lookup.look_up(tiny.network(sse), sse, tmp_path).states.values()) == {"tuned"}
    assert lookup.look_up(tiny.network(arm, words=True), arm, tmp_path) == lookup.Lookup()
    # Not even where somebody copied them to the folder of that target.
    shutil.copytree(tiny.folder(tmp_path, sse), tiny.folder(tmp_path, arm))
    assert lookup.look_up(tiny.network(arm, words=True), arm, tmp_path) == lookup.Lookup()


def test_figures_of_another_unit_are_not_mixed(logs):
    class Counter(tiny.RecordedRunner):
        unit = "instructions"

    with pytest.raises(LogError, match="records of the unit 'seconds', this sweep would add some"):
        tiny.sweep(logs, Counter(), trials=40, resume=True, search="random")


def test_check_finds_a_sound_log_sound(logs):
    assert list(curate.check(tiny.folder(logs))) == []


def test_check_names_what_is_wrong(logs, monkeypatch):
    folder = tiny.folder(logs)
    moved = folder.rename(folder.with_name("elsewhere"))
    monkeypatch.setattr(curate, "SCHEDULE_VERSION", SCHEDULE_VERSION + 1)
    found = "\n".join(curate.check(moved))
    assert f"whose folder is named {folder.name}" in found
    assert "are of other schedules" in found


def test_prune_keeps_what_the_compiler_uses(logs):
    before = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    folder = tiny.folder(logs)
    size = (folder / RECORDS).stat().st_size
    original = {(r.key, str(r.parameters), r.run_secs) for r in TuningLog(folder).records}
    count, left = curate.prune(folder, 1)
    assert left < count and (folder / RECORDS).stat().st_size < size
    assert lookup.look_up(tiny.network(), tiny.NATIVE, logs) == before
    assert list(curate.check(folder)) == []
    kept = TuningLog(folder).records
    assert not any(record.failed for record in kept)
    assert {(r.key, str(r.parameters), r.run_secs) for r in kept} <= original
    assert len({(r.key, str(r.parameters), r.final) for r in kept}) == len(kept)
    told = [json.loads(line) for line in (folder / TRIALS).read_text().splitlines()]
    assert len(told) == len(kept)
    assert {(t["workload"], t["final"], tuple(t["run_secs"])) for t in told} == {
        (r.key, r.final, r.run_secs) for r in kept
    }


def test_prune_drops_what_is_no_choice_any_more(logs, monkeypatch):
    folder = tiny.folder(logs)
    kept = {ConvTiles(1, 1, 1), tiny.tasks()[0].default, tiny.tasks()[1].default}
    monkeypatch.setattr(BackEnd, "space", lambda *_: list(kept))
    assert any("does not accept" in line for line in curate.check(folder))
    curate.prune(folder, 3)
    left = TuningLog(folder).records
    assert {record.tiles for record in left} <= kept
    for key, task in meta.read(folder).tasks.items():
        best = records.best_record([record for record in left if record.key == key])
        assert task.best.median == best.median <= task.default.median
        assert ConvTiles(**task.default.parameters) in [r.tiles for r in left if r.key == key]
    assert list(curate.check(folder)) == []


def test_a_packed_log_reads_as_before(logs, tmp_path):
    before = lookup.look_up(tiny.network(), tiny.NATIVE, logs)
    folder, tables = tiny.folder(logs), (WORKLOADS, RECORDS)
    content = [(folder / name).read_bytes() for name in tables]
    large, small = curate.pack(folder)
    assert small < large / 4
    assert curate.pack(folder) == (small, small)
    assert not any((folder / name).exists() for name in tables)
    assert lookup.look_up(tiny.network(), tiny.NATIVE, logs) == before != lookup.Lookup()
    assert list(curate.check(folder)) == []
    count = len(TuningLog(folder).records)
    assert curate.merge(folder, tmp_path / "other")[1] == count
    # A sweep goes on with it: what is appended to is not packed.
    tiny.sweep(logs, tiny.RecordedRunner(), trials=32, search="random", resume=True)
    assert not (folder / f"{RECORDS}.xz").exists()
    for name, start in zip(tables, content, strict=True):
        assert (folder / name).read_bytes().startswith(start)
    assert len(TuningLog(folder).records) > count


def test_a_damaged_packed_table_is_named(logs):
    folder = tiny.folder(logs)
    curate.pack(folder)
    path = folder / f"{WORKLOADS}.xz"
    for damaged in (path.read_bytes()[:-40], b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(LogError, match=f"{WORKLOADS}.xz is damaged"):
            TuningLog(folder)


def test_merge_joins_two_halves(tmp_path):
    """Two machines tuned a task each; merged, both are tuned, and merging again adds nothing."""
    both = tiny.tasks()
    for name, task in zip("ab", both, strict=True):
        tiny.sweep(tmp_path / name, tiny.RecordedRunner(), chosen=[task], trials=8)
    into = tmp_path / "into"
    added = [curate.merge(tiny.folder(tmp_path / name), into)[1] for name in "ab"]
    assert min(added) > 0
    assert curate.merge(tiny.folder(tmp_path / "a"), into)[1] == 0
    assert set(lookup.look_up(tiny.network(), tiny.NATIVE, into).states.values()) == {"tuned"}
    assert list(curate.check(tiny.folder(into))) == []
    # The order of the workload tables differs, so records were renumbered.
    other = tmp_path / "other"
    for name in "ba":
        curate.merge(tiny.folder(tmp_path / name), other)
    one, two = (lookup.look_up(tiny.network(), tiny.NATIVE, at) for at in (into, other))
    assert one == two


def test_merge_refuses_figures_that_cannot_be_compared(logs, tmp_path):
    folder = tiny.folder(logs)
    curate.merge(folder, tmp_path / "into")
    path = folder / "meta.json"
    path.write_text(path.read_text().replace('"unit": "seconds"', '"unit": "cycles"'))
    with pytest.raises(LogError, match="holds records of unit 'cycles'"):
        curate.merge(folder, tmp_path / "into")


def test_the_command_line(logs, capsys):
    from tvm_insta import logs as command

    assert command.main(["list", str(logs)]) == 0
    listed = capsys.readouterr().out
    assert "native" in listed and "width_tile" in listed
    assert command.main(["check", str(logs)]) == 0
    assert "sound" in capsys.readouterr().out
    assert command.main(["merge", str(logs), "--into", str(logs.with_name("into"))]) == 0
    assert command.main(["prune", str(logs), "--keep", "1"]) == 0
    assert command.main(["prune", str(logs), "--keep", "0"]) == 2
    assert "at least the fastest" in capsys.readouterr().err
    assert command.main(["check", str(logs / "nothing")]) == 2
    (tiny.folder(logs) / RECORDS).write_text("{}\n{}\n")
    assert command.main(["check", str(logs)]) == 2
    error = capsys.readouterr().err
    assert f"{RECORDS}, line 1" in error and "Traceback" not in error


def test_a_trial_that_is_not_in_the_record_table_does_not_count(tmp_path, monkeypatch):
    """Killed between the two files: the table decides, and the trial is made again."""
    chosen = tiny.tasks()[:1]
    real = logs_module.lines.append

    def killed(path, entries):
        if path.name == RECORDS and path.exists() and path.read_bytes().count(b"\n") == 3:
            raise KeyboardInterrupt
        real(path, entries)

    monkeypatch.setattr(logs_module.lines, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        tiny.sweep(tmp_path, tiny.RecordedRunner(), chosen=chosen, trials=8, search="random")
    monkeypatch.undo()
    runner = tiny.RecordedRunner()
    tiny.sweep(tmp_path, runner, chosen=chosen, trials=8, search="random", resume=True)
    assert len(runner.measured) == 5
    log = TuningLog(tiny.folder(tmp_path))
    assert len({str(r.parameters) for r in log.records if not r.final}) == 8


def record(width, seconds, final=False, wrong=False):
    figures = (seconds,) * 3 if seconds else ()
    return records.Record("1", {"width_tile": width}, figures, SCHEDULE_VERSION, final, {}, wrong)


@pytest.mark.parametrize(
    ("found", "best"),
    [
        ([record(1, 2e-6), record(2, 1e-6), record(3, 3e-6)], 2),
        ([record(1, 2e-6), record(2, None)], 1),
        # Compared: only that counts, and of two comparisons the later.
        ([record(2, 1e-6), record(1, 2e-6), record(1, 2e-6, True)], 1),
        ([record(1, 1e-6, True), record(2, 2e-6, True), record(1, 3e-6, True)], 2),
        # Wrong once is wrong: before, after, and where the comparison had no other survivor.
        ([record(1, None, wrong=True), record(2, 2e-6, True), record(1, 1e-6, True)], 2),
        ([record(1, 1e-6), record(2, 2e-6), record(1, None, True, True)], 2),
        ([record(1, 1e-6), record(2, 2e-6), record(1, None, True, True), record(1, 1e-6)], 2),
        # Any other failure undoes what was measured before, and no more.
        ([record(1, None), record(2, 2e-6), record(1, 1e-6)], 1),
        ([record(1, 1e-6), record(2, 2e-6), record(1, None)], 2),
        ([record(1, 1e-6, True), record(2, 2e-6), record(1, None)], 2),
        ([record(1, 1e-6, True), record(1, None), record(1, 4e-6), record(2, 2e-6, True)], 2),
    ],
)
def test_the_record_that_counts(found, best):
    assert records.best_record(found).parameters == {"width_tile": best}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),  # which choice
            st.sampled_from(["ok", "ok", "failed", "wrong"]),
            st.integers(1, 9),  # microseconds
            st.booleans(),  # of the final comparison
        ),
        max_size=9,
    ),
    st.integers(1, 3),
)
def test_report_compiler_and_pruned_log_agree(found, keep):
    """What a sweep reports of any log is what the compiler takes, before pruning and after."""
    (task,) = tiny.tasks()[:1]
    choices = [task.default, *(t for t in task.choices if t != task.default)][:3]
    with tempfile.TemporaryDirectory() as made:
        at = tiny.folder(Path(made))
        with locked(at):
            log = TuningLog(at, repair=True)
            for which, what, micros, final in found:
                failed = Outcome(error=what, wrong=what == "wrong")
                outcome = Outcome((micros * 1e-6,)) if what == "ok" else failed
                log.append(task, tiny.NATIVE, choices[which], outcome, final=final)
            state = TaskState(
                task, log.of(task, tiny.NATIVE), {}, seed=0, search="random", batch=4, peak=None
            )
            about = new_meta(tiny.NATIVE, "recorded", "seconds", 1, "cpu", "tvm")
            meta.write(at, dataclasses.replace(about, tasks={task.key: state.describe()}))

        def taken():
            looked = lookup.look_up(tiny.network(), tiny.NATIVE, Path(made))
            tiles = looked.parameters.get(task.name)
            return None if tiles is None else (tiles, looked.medians[task.name])

        best = state.describe().best
        assert taken() == state.best
        assert (best and (records.to_tiles(best.parameters), best.median)) == state.best
        curate.prune(at, keep)
        assert taken() == state.best


def test_a_wrong_result_is_told_from_other_failures(made):
    """The note is in the table, not only in the lines for people."""
    (task,) = tiny.tasks()[:1]
    for wrong in (False, True):
        line = records.to_json(
            0, task.default, task.choices, (), tiny.NATIVE, [], final=True, wrong=wrong
        )
        read = records.from_json(line, [task.key])
        assert (read.failed, read.wrong, read.final) == (True, wrong, True)
        assert read.tiles == task.default
    assert refused({"error": "e", "kind": "WrongResultError"}).wrong
    assert not refused({"error": "e", "kind": "TuneError"}).wrong
    with pytest.raises(WrongResultError, match="wrong result: 1 of 2 bytes"):
        check([b"ab"], [b"aa"])


def test_no_record_counts_where_all_failed():
    assert records.best_record([record(1, None), record(1, None, True)]) is None
    assert records.best_record([]) is None


def test_parameters_of_another_version_are_no_tiles():
    assert records.to_tiles({"width_tile": 2, "colour": 1}) is None
    assert records.to_tiles({"width_tile": -2}) is None
    assert records.to_tiles({"width_tile": 2, "unroll_taps": 1}) == ConvTiles(2, unroll_taps=True)
