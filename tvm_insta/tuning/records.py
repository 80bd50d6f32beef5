"""One trial as a line of MetaSchedule's tuning record table.

    [workload, [[instructions, decisions], run_secs, target, arguments]]

The trace samples one categorical value for each parameter of the rule and notes it on the root
block under "insta.<parameter>"; two more notes say which schedules it is of
("insta.schedule_version") and whether it was measured in a final comparison ("insta.final"). So
MetaSchedule loads the table, and the compiler reads it without MetaSchedule. A failed trial has
MetaSchedule's 1e10 seconds; a third note, "insta.wrong", says that it computed wrong bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_insta.schedules import SCHEDULE_VERSION, TILE_KINDS, Tiles
from tvm_insta.target import InstaTarget

FAILED = 1e10
_PREFIX = "insta."
_VERSION, _FINAL, _WRONG = "schedule_version", "final", "wrong"


@dataclass(frozen=True)
class Record:
    """A trial that was read back.

    Attributes:
        key: hash of the workload.
        parameters: field name of one of `TILE_KINDS` -> value.
        run_secs: one figure per repeat, in the log's unit; empty for a failed trial.
        version: schedule version it was measured with.
        final: measured in the final comparison of the best trials and the default.
        target: as TVM exports it.
        wrong: it failed because its outputs are not the expected bytes.
    """

    key: str
    parameters: Mapping[str, int]
    run_secs: tuple[float, ...]
    version: int
    final: bool
    target: Mapping[str, Any]
    wrong: bool = False

    @property
    def failed(self) -> bool:
        """Whether there is no valid figure."""
        return not self.run_secs

    @property
    def choice(self) -> tuple[tuple[str, int], ...]:
        """The parameters, to tell records of one choice from those of others."""
        return tuple(sorted(self.parameters.items()))

    @property
    def median(self) -> float:
        """Median of the repeats, infinity for a failed trial."""
        return float(np.median(self.run_secs)) if self.run_secs else float("inf")

    @property
    def tiles(self) -> Tiles | None:
        """The parameters for `schedule_module`; None if this version has others."""
        return to_tiles(self.parameters)


def fields(kind: type[Tiles]) -> tuple[tuple[str, type], ...]:
    """Names and types of the parameters; MetaSchedule samples integers, so only int and bool."""
    types: Mapping[str, type] = {"int": int, "bool": bool}
    return tuple((item.name, types[str(item.type)]) for item in dataclasses.fields(kind))


def to_numbers(tiles: Tiles) -> dict[str, int]:
    """Parameters as integers by name."""
    return {name: int(getattr(tiles, name)) for name, _ in fields(type(tiles))}


def to_tiles(numbers: Mapping[str, int]) -> Tiles | None:
    """Parameters from integers by name; None if these are not the names or not the values."""
    for kind in TILE_KINDS:
        known = fields(kind)
        if not _needed(kind) <= set(numbers) <= {name for name, _ in known}:
            continue
        try:
            return kind(**{n: each(numbers[n]) for n, each in known if n in numbers})
        except (TypeError, ValueError):
            return None
    return None


def values_of(space: Sequence[Tiles]) -> dict[str, list[int]]:
    """The values that each parameter takes somewhere in the space, ascending.

    A parameter that is 0 everywhere, and has this as its default, is none of the rule's: it is left
    out.
    """
    names = [name for name, _ in fields(type(space[0]))] if space else []
    taken = {name: sorted({int(getattr(tiles, name)) for tiles in space}) for name in names}
    needed = _needed(type(space[0])) if space else set()
    return {name: values for name, values in taken.items() if values != [0] or name in needed}


def _needed(kind: type[Tiles]) -> set[str]:
    """Names of the parameters that have no default."""
    return {item.name for item in dataclasses.fields(kind) if item.default is dataclasses.MISSING}


def to_json(
    workload: int,
    tiles: Tiles,
    space: Sequence[Tiles],
    run_secs: Sequence[float],
    target: InstaTarget,
    arguments: Sequence[tuple[str, Sequence[int]]],
    *,
    final: bool = False,
    wrong: bool = False,
) -> list[Any]:
    """The line of one trial.

    Args:
        workload: its number in the workload table.
        tiles: the parameters.
        space: all choices of the task.
        run_secs: one figure per repeat; empty for a failed trial.
        target: of the sweep.
        arguments: dtype and shape of each argument of the kernel.
        final: see `Record`.
        wrong: see `Record`.
    """
    instructions: list[Any] = [["GetSBlock", [], ["root", "main"], ["b0"]]]
    decisions = []
    for number, (name, values) in enumerate(values_of(space).items()):
        chosen = int(getattr(tiles, name))
        decisions.append([len(instructions), values.index(chosen)])
        odds = [1.0 / len(values)] * len(values)
        instructions += [
            ["SampleCategorical", [], [values, odds], [f"v{number + 1}"]],
            ["Annotate", ["b0", f"v{number + 1}"], [_PREFIX + name], []],
        ]
    instructions.append(["Annotate", ["b0", SCHEDULE_VERSION], [_PREFIX + _VERSION], []])
    for name, holds in ((_FINAL, final), (_WRONG, wrong)):
        if holds:
            instructions.append(["Annotate", ["b0", 1], [_PREFIX + name], []])
    figures = [float(second) for second in run_secs] or [FAILED]
    shapes = [["TENSOR", dtype, list(shape)] for dtype, shape in arguments]
    return [workload, [[instructions, decisions], figures, exported(target), shapes]]


def from_json(line: Any, keys: Sequence[str]) -> Record:
    """Read a line; `keys` are the hashes of the workload table.

    Raises:
        ValueError: it is no record of ours; the message is a clause.
    """
    try:
        workload, ((instructions, decisions), run_secs, target, _) = line
        notes = _notes(instructions, dict(decisions))
        figures = tuple(float(second) for second in run_secs or ())
        key = keys[workload] if workload >= 0 else None
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError("not a tuning record") from error
    except IndexError as error:
        raise ValueError(f"workload {line[0]} is not in the workload table") from error
    if key is None or not isinstance(target, dict):
        raise ValueError("not a tuning record")
    if not all(0 < second <= FAILED for second in figures):  # NaN fails too
        raise ValueError("a time that is not a positive number")
    version, final, wrong = (notes.pop(name, 0) for name in (_VERSION, _FINAL, _WRONG))
    valid = () if FAILED in figures else figures
    return Record(key, notes, valid, version, bool(final), target, bool(wrong))


def _notes(instructions: Any, decisions: dict[int, int]) -> dict[str, int]:
    """What the trace notes under our prefix, sampled values resolved."""
    sampled: dict[str, int] = {}
    notes: dict[str, int] = {}
    for index, (kind, inputs, attributes, outputs) in enumerate(instructions):
        if kind == "SampleCategorical":
            sampled[outputs[0]] = int(attributes[0][decisions[index]])
        elif kind == "Annotate" and str(attributes[0]).startswith(_PREFIX):
            value = inputs[1]
            notes[attributes[0].removeprefix(_PREFIX)] = (
                sampled[value] if isinstance(value, str) else int(value)
            )
    return notes


def standing(records: Sequence[Record]) -> list[Record]:
    """The records whose choice stands, in order.

    A choice that once gave a wrong result is out for ever: it may do so again. Any other failure,
    of a busy machine or a lost device say, undoes what was measured of the choice before, and the
    choice stands again once it is measured anew.

    Args:
        records: of one workload, target and schedule version, in the order of the log.
    """
    failures = {record.choice: at for at, record in enumerate(records) if record.failed}
    wrong = {record.choice for record in records if record.wrong}
    return [
        record
        for at, record in enumerate(records)
        if at > failures.get(record.choice, -1) and record.choice not in wrong
    ]


def counting(records: Sequence[Record]) -> list[Record]:
    """The records that a choice is made from: of each choice one.

    A trial is one of many, so the fastest of them is also the luckiest: where some were compared
    again, only that comparison counts. Of a choice that was measured several times the last counts.

    Args:
        records: see `standing`.
    """
    left = standing(records)
    compared = any(record.final for record in left)
    return list({r.choice: r for r in left if r.final or not compared}.values())


def best_record(records: Sequence[Record]) -> Record | None:
    """The fastest of the records that count, None if there is none; see `counting`."""
    return min(counting(records), key=lambda record: record.median, default=None)


def exported(target: InstaTarget) -> dict[str, Any]:
    """A target as TVM writes it into a record; of a card without the host beside it."""
    result: dict[str, Any] = _plain(target.tvm.export())
    result.pop("host", None)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]
