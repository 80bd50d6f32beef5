"""Looking after logs: what is in them, whether it is sound, joining two, and keeping the best."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tvm_insta.errors import LogError
from tvm_insta.schedules import SCHEDULE_VERSION, back_end
from tvm_insta.target import parse
from tvm_insta.tuning import meta as metas
from tvm_insta.tuning.log import RECORDS, WORKLOADS, TuningLog, folder_of, locked
from tvm_insta.tuning.records import Record, best_record, exported, standing, to_tiles


def folders(logs: Path) -> list[Path]:
    """The targets' folders in a folder of logs, or the folder itself if it is a target's.

    Raises:
        LogError: there is none.
    """
    if not logs.is_dir():
        raise LogError(f"{logs} is no folder: give the folder that holds the logs")
    if (logs / metas.FILE_NAME).exists():
        return [logs]
    found = sorted(path.parent for path in logs.glob(f"*/{metas.FILE_NAME}"))
    if not found:
        raise LogError(f"{logs} holds no log: give the folder that the tune command wrote to")
    return found


def overview(folder: Path) -> Iterator[str]:
    """Lines on one log: the target, where its figures come from, and its tasks."""
    meta, log = _meta(folder), TuningLog(folder)
    yield from log.messages
    yield (
        f"{folder.name}: {meta.target_text}, {len(log.records)} trials of {len(log.keys)} "
        f"kernels by runner {meta.runner} ({meta.unit}, {meta.threads} threads) on {meta.cpu}, "
        f"TVM {meta.tvm}"
    )
    for key, pairs in log.by_key().items():
        of_key = [record for record, _ in pairs]
        now = [record for record in of_key if record.version == SCHEDULE_VERSION]
        about = meta.tasks.get(key)
        name = "unknown" if about is None else ", ".join(about.layers) or about.name
        if not now:
            yield f"  stale: {name} ({len(of_key)} trials of other schedules)"
            continue
        best = best_record(now)
        if best is None:
            yield f"  failed: {name} (all {len(now)} trials)"
            continue
        chosen = ", ".join(f"{field} {value}" for field, value in best.parameters.items())
        yield f"  {_amount(best.median, meta.unit)}: {name} ({len(now)} trials): {chosen}"


def check(folder: Path) -> Iterator[str]:
    """What is wrong with a log, one sentence each; nothing for a sound one.

    Raises:
        LogError: damage that keeps it from being read, with file and line.
    """
    meta, log = _meta(folder), TuningLog(folder)
    yield from log.messages
    target = parse(meta.target)
    if folder.name != folder_of(folder.parent, target).name:
        yield (
            f"{folder}: its target is {meta.target_text}, whose folder is named "
            f"{folder_of(folder.parent, target).name}; the compiler will not find it"
        )
    if len(set(log.keys)) != len(log.keys):
        yield f"{folder / WORKLOADS}: a workload stands there twice; merge the log into a new one"
    listed = {}
    for key in dict.fromkeys(log.keys):
        function = log.mod_of(key)["main"]
        listed[key] = set(back_end(target.tvm).space(function, target.lanes))
    export = exported(target)
    for number, record in enumerate(log.records, 1):
        where = f"{folder / RECORDS}, line {number}"
        if dict(record.target) != export:
            yield f"{where}: a record of another target; merge the log into a new one"
        elif record.version == SCHEDULE_VERSION and record.tiles not in listed[record.key]:
            yield f"{where}: parameters that the schedule does not accept; prune the log"
    stale = sum(record.version != SCHEDULE_VERSION for record in log.records)
    if stale:
        yield (
            f"{folder}: {stale} of {len(log.records)} trials are of other schedules than these "
            f"(version {SCHEDULE_VERSION}); tune again, and prune the log"
        )
    unknown = [key for key in log.keys if key not in meta.tasks]
    if unknown:
        yield f"{folder / metas.FILE_NAME}: nothing is said about workload {unknown[0]}"


def prune(folder: Path, keep: int) -> tuple[int, int]:
    """Drop what the compiler will never use.

    That is: other targets and versions, failures and what they undid, what is no choice any more,
    slow trials. A later
    `--resume` measures dropped trials again if its search comes to them.

    Args:
        folder: of one target.
        keep: the fastest trials of each kernel that stay, beside its default and those of its final
            comparison.

    Returns:
        Trials before and after.

    Raises:
        LogError: the log is damaged or in use.
    """
    with locked(folder):
        meta, log = _meta(folder), TuningLog(folder, repair=True)
        target = parse(meta.target)
        export, rules = exported(target), back_end(target.tvm)
        kept, trials, tasks, by_key = [], [], {}, log.by_key()
        for key, entry in zip(log.keys, log.workloads, strict=True):
            listed = set(rules.space(log.mod_of(key)["main"], target.lanes))
            own = [
                (record, line)
                for record, line in by_key[key]
                if record.version == SCHEDULE_VERSION
                and dict(record.target) == export
                and record.tiles in listed
            ]
            left = standing([record for record, _ in own])
            finals = [record for record in left if record.final]
            trials_of_choices = {record.choice: record for record in left if not record.final}
            others = sorted(trials_of_choices.values(), key=lambda record: record.median)
            task = meta.tasks.get(key)
            default = task and task.default and to_tiles(task.default.parameters)
            chosen = [
                *finals,
                *others[:keep],
                *(record for record in others[keep:] if record.tiles == default),
            ]
            if chosen:
                wanted = {id(record) for record in chosen}
                pairs = [pair for pair in own if id(pair[0]) in wanted]  # in the order of the log
                kept.append((entry, [line for _, line in pairs]))
                stay = [record for record, _ in pairs]
                trials += _trials_of(log, stay)
                if task is not None:
                    best = best_record(stay)
                    figure = None if best is None else metas.figure_of(best)
                    tasks[key] = dataclasses.replace(task, best=figure)
        before = len(log.records)
        log.rewrite(kept, trials)
        metas.write(folder, dataclasses.replace(meta, tasks=tasks))
        return before, sum(len(entries) for _, entries in kept)


def pack(folder: Path) -> tuple[int, int]:
    """Pack the tables of a log, before it is committed; a sweep, prune or merge unpacks them.

    Args:
        folder: of one target.

    Returns:
        Bytes of the folder before and after.

    Raises:
        LogError: the log is damaged or in use.
    """

    def size() -> int:
        return sum(path.stat().st_size for path in folder.iterdir())

    with locked(folder):
        _meta(folder)
        before = size()
        TuningLog(folder, repair=True).pack()
        return before, size()


def merge(source: Path, logs: Path) -> tuple[Path, int]:
    """Add one target's log to a folder of logs; trials that are there already stay once.

    Args:
        source: folder of one target.
        logs: folder of logs; the target's folder in it is made if it is missing.

    Returns:
        The folder that was added to, and the number of trials that are new there.

    Raises:
        LogError: a log is damaged or in use, or its figures cannot be compared with those there.
    """
    given, more = _meta(source), TuningLog(source)
    folder = folder_of(logs, parse(given.target))
    if folder.resolve() == source.resolve():
        raise LogError(f"{source} is to be merged into itself: name another folder with --into")
    with locked(folder):
        meta, log = metas.read(folder), TuningLog(folder, repair=True)
        if meta is None:
            meta = dataclasses.replace(given, tasks={})
        for what in ("target", "unit", "threads", "cpu"):
            one, other = getattr(given, what), getattr(meta, what)
            if one != other:
                raise LogError(
                    f"{source} holds records of {what} {one!r}, {folder} of {other!r}: they cannot "
                    "be compared, so keep them in two folders of logs"
                )
        table = dict(zip(log.keys, log.workloads, strict=True))
        table |= {
            key: entry
            for key, entry in zip(more.keys, more.workloads, strict=True)
            if key not in table
        }
        texts: dict[str, dict[str, list[object]]] = {key: {} for key in table}
        for one_log in (log, more):
            for record, line in zip(one_log.records, one_log.lines, strict=True):
                texts[record.key].setdefault(json.dumps(line[1]), line)
        kept = [(table[key], list(texts[key].values())) for key in table]
        trials = list({json.dumps(t): t for t in [*log.trials, *more.trials]}.values())
        added = sum(len(entries) for _, entries in kept) - len(log.records)
        log.rewrite(kept, trials)
        tasks = dict(meta.tasks)
        for key, task in given.tasks.items():
            if key not in tasks or task.trials > tasks[key].trials:
                tasks[key] = task
        metas.write(folder, dataclasses.replace(meta, tasks=tasks))
    return folder, added


def _meta(folder: Path) -> metas.Meta:
    meta = metas.read(folder)
    if meta is None:
        raise LogError(f"{folder} has no {metas.FILE_NAME}: it is no log of the tune command")
    return meta


def _trials_of(log: TuningLog, chosen: Sequence[Record]) -> list[object]:
    wanted = {(record.key, record.final, record.tiles) for record in chosen}
    return [
        trial
        for trial in log.trials
        if isinstance(trial, dict)
        and isinstance(trial.get("parameters"), dict)
        and (trial.get("workload"), trial.get("final"), to_tiles(trial["parameters"])) in wanted
    ]


def _amount(value: float, unit: str) -> str:
    if unit == "seconds":
        return f"{1e6 * value:.1f} us"
    if unit == "modelled clocks":
        return f"{1e9 * value:.0f} {unit}"
    return f"{1e3 * value:.3f} M {unit}"
