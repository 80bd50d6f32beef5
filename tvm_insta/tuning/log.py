"""The folder of one target's tuning records.

    <logs>/<target id>/
        database_workload.json        MetaSchedule's workload table
        database_tuning_record.json   MetaSchedule's record table, one line per trial
        trials.jsonl                  the same trials for people: device, error, time of day
        meta.json                     target, CPU, versions, seeds, figures before and after

The two tables are what counts; the other two explain them. Committed logs have the tables packed,
see `lines`. A sweep holds a lock on the folder, and every trial is on disk before the next one
begins.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tvm_insta.errors import LogError
from tvm_insta.schedules import Tiles
from tvm_insta.target import InstaTarget
from tvm_insta.tuning import lines, meta, records
from tvm_insta.tuning.records import Record
from tvm_insta.tuning.runner import Outcome
from tvm_insta.tuning.tasks import Task
from tvm_insta.tuning.workload import (
    arguments_of,
    from_json,
    same,
    target_id,
    to_json,
    without_host,
)

WORKLOADS = "database_workload.json"
RECORDS = "database_tuning_record.json"
TRIALS = "trials.jsonl"
LOCK = ".lock"


class TuningLog:
    """One target's records.

    Attributes:
        folder: of the target.
        messages: what was repaired, for people.
        workloads: MetaSchedule's workload table.
        keys: their hashes, in the same order.
        records: every trial, in order.
        lines: the same as they stand in the table.
    """

    def __init__(self, folder: Path, *, repair: bool = False) -> None:
        """Read a log; a folder without one is an empty log.

        Args:
            folder: of the target.
            repair: unpack, and cut off a damaged last line; only the holder of the lock may.

        Raises:
            LogError: damage other than a damaged last line.
        """
        self.folder = folder
        self.messages: list[str] = []
        self._repair = repair
        self.workloads: list[Any] = self._read(WORKLOADS, lambda entry: entry)
        self.keys: list[str] = []
        for line, entry in enumerate(self.workloads, 1):
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                raise LogError(f"{folder / WORKLOADS}, line {line}: no workload; restore the file")
            self.keys.append(entry[0])
        both = self._read(RECORDS, lambda entry: (records.from_json(entry, self.keys), entry))
        self.records: list[Record] = [record for record, _ in both]
        self.lines: list[Any] = [line for _, line in both]
        self.trials: list[Any] = self._read(TRIALS, lambda entry: entry)

    def _read(self, name: str, read: Any) -> list[Any]:
        path = self.folder / name
        if self._repair:
            lines.unpack(path)
        values, damaged = lines.read_lines(path, read)
        if damaged:
            done = "was cut off" if self._repair else "is left out"
            self.messages.append(
                f"{path}: the last line ({damaged} bytes) is incomplete, as an interrupted write "
                f"leaves it; it {done}"
            )
            if self._repair:
                lines.cut(path, damaged)
        return values

    def mod_of(self, key: str) -> Any:
        """The workload of a hash.

        Raises:
            LogError: the entry is damaged.
        """
        index = self.keys.index(key)
        try:
            return from_json(self.workloads[index])
        except ValueError as error:
            raise LogError(
                f"{self.folder / WORKLOADS}, line {index + 1}: {error}; restore the file"
            ) from error

    def of(self, task: Task, target: InstaTarget) -> list[Record]:
        """The records of a task for a target, whatever their schedule version."""
        if task.key not in self.keys or not same(self.mod_of(task.key), task.mod):
            return []
        export = records.exported(target)
        return [r for r in self.records if r.key == task.key and dict(r.target) == export]

    def by_key(self) -> dict[str, list[tuple[Record, Any]]]:
        """The records of each workload, with their lines, in order."""
        found: dict[str, list[tuple[Record, Any]]] = {key: [] for key in self.keys}
        for record, line in zip(self.records, self.lines, strict=True):
            found[record.key].append((record, line))
        return found

    def devices(self, key: str) -> Counter[str]:
        """Trials of a workload by what measured them, as far as trials.jsonl tells."""
        return Counter(
            str(trial["device"])
            for trial in self.trials
            if isinstance(trial, dict) and trial.get("workload") == key and trial.get("device")
        )

    def append(
        self,
        task: Task,
        target: InstaTarget,
        tiles: Tiles,
        outcome: Outcome,
        *,
        final: bool = False,
    ) -> Record:
        """Put a trial on disk.

        Raises:
            LogError: it cannot be written.
        """
        if task.key not in self.keys:
            entry = to_json(task.mod)
            lines.append(self.folder / WORKLOADS, [entry])
            self.workloads.append(entry)
            self.keys.append(task.key)
        seen = {
            "task": task.name,
            "workload": task.key,
            "parameters": records.to_numbers(tiles),
            "run_secs": list(outcome.run_secs),
            "device": outcome.device,
            "error": outcome.error,
            "final": final,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        lines.append(self.folder / TRIALS, [seen])
        line = records.to_json(
            self.keys.index(task.key),
            tiles,
            task.choices,
            outcome.run_secs,
            target,
            arguments_of(task.mod),
            final=final,
            wrong=outcome.wrong,
        )
        lines.append(self.folder / RECORDS, [line])
        record = records.from_json(line, self.keys)
        self.records.append(record)
        self.lines.append(line)
        return record

    def pack(self) -> None:
        """Pack the tables; whoever repairs the log unpacks them.

        Raises:
            LogError: a file cannot be written.
        """
        for name in (WORKLOADS, RECORDS):
            lines.pack(self.folder / name)

    def rewrite(self, kept: Sequence[tuple[Any, Sequence[Any]]], trials: Sequence[Any]) -> None:
        """Replace the files: each kept workload with its record lines, which are renumbered.

        Raises:
            LogError: a file cannot be written.
        """
        numbered = [[n, line[1]] for n, (_, entries) in enumerate(kept) for line in entries]
        # The empty record table between the two: no moment at which a record counts on a workload
        # that is another one or none.
        lines.replace(self.folder / RECORDS, "")
        lines.replace(self.folder / WORKLOADS, "".join(lines.dumped(entry) for entry, _ in kept))
        lines.replace(self.folder / RECORDS, "".join(map(lines.dumped, numbered)))
        lines.replace(self.folder / TRIALS, "".join(map(lines.dumped, trials)))


def folder_of(logs: Path, target: InstaTarget) -> Path:
    """The folder of a target below a folder of logs."""
    return logs / target_id(target)


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever a file of a log does: name, time and size of each."""
    found = []
    for name in (WORKLOADS, RECORDS, TRIALS):
        for path in lines.either(folder / name):
            with suppress(OSError):
                status = path.stat()
                found.append((path.name, status.st_mtime_ns, status.st_size))
    return tuple(found)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for one sweep; the lock goes with the process, however it ends.

    Raises:
        LogError: another process holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LogError(
            f"cannot write to {folder} ({error.strerror}): name another folder with --log-dir"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise LogError(
                f"{folder} is in use by another sweep (process {holder}): wait for it, end it, or "
                "name another folder with --log-dir"
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def new_meta(
    target: InstaTarget, runner: str, unit: str, threads: int, cpu: str, tvm: str
) -> meta.Meta:
    """The meta data of an empty log."""
    from tvm_insta.schedules import SCHEDULE_VERSION

    return meta.Meta(
        without_host(target), target.text, cpu, tvm, SCHEDULE_VERSION, runner, unit, threads
    )
