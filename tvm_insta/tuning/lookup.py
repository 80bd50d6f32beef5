"""What the compiler asks the logs: the best parameters of each kernel of a module.

A record counts only if target, workload and schedule version are the compilation's. MetaSchedule's
own queries ignore the target; here each target has a folder, and each record is checked, too.

A kernel without records takes the parameters of the same layer with another epilogue, where a log
knows one: other people's networks have other activation functions behind the same convolutions.
"""

from __future__ import annotations

import functools
import json
import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from tvm import tirx
from tvm.ir import IRModule

from tvm_insta.schedules import SCHEDULE_VERSION, Tiles, back_end
from tvm_insta.target import InstaTarget
from tvm_insta.tuning import lines
from tvm_insta.tuning.log import RECORDS, TuningLog, folder_of, stamp
from tvm_insta.tuning.records import Record, best_record, exported
from tvm_insta.tuning.workload import blocks_of, canonical, key_of, layer_of, names_of, same

_LOG = logging.getLogger("tvm_insta")

TUNED, SIMILAR, DEFAULT, STALE = "tuned", "similar", "default", "stale"


@dataclass(frozen=True)
class Lookup:
    """What was found.

    Attributes:
        parameters: for `schedule_module`, by kernel.
        states: "tuned" (there is a record, its parameters are used), "similar" (there is one of
            the same layer with another epilogue, its parameters are used), "stale" (there is one,
            of another schedule version or with parameters that are no choice any more) or
            "default", by kernel.
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
    folder = folder_of(logs or packaged(), target)
    export = json.dumps(exported(target), sort_keys=True)
    layers = _layers(folder, stamp(folder), export)
    log = layers.log
    for message in log.messages:
        _LOG.warning("%s", message)
    chosen = back_end(target.tvm)
    for variable, function in mod.functions.items():
        if not isinstance(function, tirx.PrimFunc):
            continue
        listed = chosen.space(function, target.lanes)
        if not listed:
            continue
        workload = canonical(function)
        key = key_of(workload)
        name = variable.name_hint
        if key not in layers.keys or not same(log.mod_of(key), workload):
            tiles = layers.tiles_of(workload, listed)
            if tiles is not None:
                found.parameters[name], found.states[name] = tiles, SIMILAR
            continue
        usable = [record for record in layers.current(key) if record.tiles in listed]
        best = best_record(usable)
        if best is not None and best.tiles is not None:
            found.parameters[name], found.states[name] = best.tiles, TUNED
            found.medians[name] = best.median
        elif not usable:
            found.states[name] = STALE
    return found


@functools.lru_cache(maxsize=4)
def _layers(folder: Path, _: object, export: str) -> _Layers:
    """A log as `look_up` reads it, once for all compilations while its `stamp` stays."""
    log = TuningLog(folder)
    mine = [r for r in log.records if json.dumps(dict(r.target), sort_keys=True) == export]
    return _Layers(log, mine)


class _Layers:
    """The records of a log by the layer that they are of, whatever its epilogue.

    Attributes:
        log: what was read.
        keys: of the workloads that one target has records of, whatever their schedule version.
    """

    def __init__(self, log: TuningLog, records: Sequence[Record]) -> None:
        self.log, self.keys = log, {record.key for record in records}
        self._current: dict[str, list[Record]] = {}
        for record in records:
            if record.version == SCHEDULE_VERSION:
                self._current.setdefault(record.key, []).append(record)
        self._alike: dict[Hashable, list[tuple[str, Counter[str]]]] | None = None

    def current(self, key: str) -> list[Record]:
        """The target's records of a workload, of this schedule version."""
        return self._current.get(key, [])

    def tiles_of(self, workload: IRModule, listed: Sequence[Tiles]) -> Tiles | None:
        """The parameters of the same layer with another epilogue, the one most like its own.

        Args:
            workload: the kernel, canonical.
            listed: all choices that it has.
        """
        blocks = blocks_of(workload)
        layer = layer_of(blocks)
        if layer is None:
            return None
        if self._alike is None:  # reading all workloads takes a moment
            self._alike = {}
            for key in self._current:
                theirs = blocks_of(self.log.mod_of(key))
                self._alike.setdefault(layer_of(theirs), []).append((key, names_of(theirs)))
        own = names_of(blocks)

        def other(known: tuple[str, Counter[str]]) -> tuple[int, str]:
            key, theirs = known
            return (own - theirs).total() + (theirs - own).total(), key

        for key, _ in sorted(self._alike.get(layer, []), key=other):
            best = best_record([r for r in self._current[key] if r.tiles in listed])
            if best is not None:
                return best.tiles
        return None
