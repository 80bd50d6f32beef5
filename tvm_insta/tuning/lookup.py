"""What the compiler asks the logs: the best parameters of each kernel of a module.

A record counts only if target, workload and schedule version are the compilation's. MetaSchedule's
own queries ignore the target; here each target has a folder, and each record is checked, too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from tvm import tirx
from tvm.ir import IRModule

from tvm_insta.schedules import SCHEDULE_VERSION, Tiles, back_end
from tvm_insta.target import InstaTarget
from tvm_insta.tuning import lines
from tvm_insta.tuning.log import RECORDS, TuningLog, folder_of
from tvm_insta.tuning.records import Record, exported
from tvm_insta.tuning.workload import canonical, key_of, same

_LOG = logging.getLogger("tvm_insta")

TUNED, DEFAULT, STALE = "tuned", "default", "stale"


@dataclass(frozen=True)
class Lookup:
    """What was found.

    Attributes:
        parameters: for `schedule_module`, by kernel.
        states: "tuned" (there is a record, its parameters are used), "stale" (there is one, of
            another schedule version or with parameters that are no choice any more) or "default",
            by kernel.
        medians: of the tuned kernels with these parameters, in the log's unit.
    """

    parameters: dict[str, Tiles] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    medians: dict[str, float] = field(default_factory=dict)


def packaged() -> Path:
    """The folder of logs that ships with the package."""
    return Path(str(resources.files("tvm_insta.autotune_logs")))


def has_records(target: InstaTarget, logs: Path | None = None) -> bool:
    """Whether there is a log of the target."""
    return lines.exists(folder_of(logs or packaged(), target) / RECORDS)


def look_up(mod: IRModule, target: InstaTarget, logs: Path | None = None) -> Lookup:
    """Look up every PrimFunc of a fused module.

    Args:
        mod: PrimFuncs that are not scheduled yet.
        target: of the compilation.
        logs: a folder of logs, one folder per target in it; None for the packaged ones.

    Raises:
        LogError: the log of this target is damaged.
    """
    found = Lookup()
    if not has_records(target, logs):
        return found
    log = TuningLog(folder_of(logs or packaged(), target))
    for message in log.messages:
        _LOG.warning("%s", message)
    export = json.dumps(exported(target), sort_keys=True)
    mine = [r for r in log.records if json.dumps(dict(r.target), sort_keys=True) == export]
    chosen = back_end(target.tvm)
    for variable, function in mod.functions.items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        listed = chosen.space(function, target.lanes)
        if not listed:
            continue
        workload = canonical(function)
        key = key_of(workload)
        records = [record for record in mine if record.key == key]
        if not records or not same(log.mod_of(key), workload):
            continue
        name = variable.name_hint
        usable = [r for r in records if r.version == SCHEDULE_VERSION and r.tiles in listed]
        best = best_record(usable)
        if best is not None and best.tiles is not None:
            found.parameters[name], found.states[name] = best.tiles, TUNED
            found.medians[name] = best.median
        elif not usable:
            found.states[name] = STALE
    return found


def best_record(records: Sequence[Record]) -> Record | None:
    """The record that counts among those of one workload: None if all failed.

    A trial is one of many, so the fastest of them is also the luckiest: where some were compared
    again, only that comparison counts, and of a choice that was compared several times the last.
    """
    last: dict[tuple[tuple[str, int], ...], Record] = {}
    compared = any(record.final and not record.failed for record in records)
    wrong = set()
    for record in records:
        choice = tuple(sorted(record.parameters.items()))
        if record.failed:
            wrong.add(choice)
        elif record.final or not compared:
            last[choice] = record
    sound = [record for choice, record in last.items() if choice not in wrong]
    return min(sound, key=lambda record: record.median, default=None)
