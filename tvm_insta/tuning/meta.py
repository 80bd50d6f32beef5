"""`meta.json`: where the figures of a log come from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from tvm_insta.errors import LogError
from tvm_insta.runtime.schema import SchemaError, from_json
from tvm_insta.tuning.lines import replace
from tvm_insta.tuning.peak import Peak
from tvm_insta.tuning.records import Record

SCHEMA = "tvm_insta.tuning/1"
FILE_NAME = "meta.json"


@dataclass(frozen=True)
class Figure:
    """What one choice of parameters took, in the log's unit, over `samples` repeats."""

    parameters: dict[str, int]
    median: float
    low: float
    """The fastest repeat."""
    high: float
    """The slowest repeat."""
    samples: int


def figure_of(record: Record) -> Figure:
    """What a record that did not fail says."""
    figures = record.run_secs
    return Figure(dict(record.parameters), record.median, min(figures), max(figures), len(figures))


@dataclass(frozen=True)
class TaskMeta:
    """One task: its layers, how it was searched, and the figures before and after."""

    name: str
    rule: str
    layers: tuple[str, ...]
    calls: int
    macs: int
    seed: int
    search: str
    batch: int
    choices: int
    trials: int = 0
    failed: int = 0
    default: Figure | None = None
    best: Figure | None = None
    devices: dict[str, int] = field(default_factory=dict)
    """Trials by what measured them."""


@dataclass(frozen=True)
class Meta:
    """A whole log.

    `unit` is what figures count: "seconds", or 1e9 "instructions", "cycles" or "modelled clocks".
    """

    target: str
    target_text: str
    cpu: str
    tvm: str
    schedule_version: int
    runner: str
    unit: str
    threads: int
    peak: Peak | None = None
    tasks: dict[str, TaskMeta] = field(default_factory=dict)
    """By the hash of the workload."""
    schema: str = SCHEMA


def read(folder: Path) -> Meta | None:
    """The meta data of a log, None where there is none yet.

    Raises:
        LogError: it is damaged or of another schema.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise SchemaError(f"its schema is not {SCHEMA}")
        return from_json(Meta, data)
    except (OSError, ValueError) as error:  # SchemaError and JSON's are ValueErrors
        raise LogError(f"{path} cannot be read ({error}): restore it") from error


def write(folder: Path, meta: Meta) -> None:
    """Write the meta data, completely or not at all.

    Raises:
        LogError: it cannot be written.
    """
    replace(folder / FILE_NAME, json.dumps(dataclasses.asdict(meta), indent=1) + "\n")
