"""What changed between two artefacts of one network, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tvm_insta.report.rows import Explanation, LayerRow
from tvm_insta.report.tables import columns, percent, size, time
from tvm_insta.report.times_text import wrapped

SCHEMA = "tvm_insta.explain-compare/1"
_FIELDS = (
    *("kind", "input", "output", "activation_bits", "weight_bits", "planes", "reason", "notes"),
    *("shape", "weight_shape", "macs", "family", "rule", "state", "fallback"),
)
"""Fields of `LayerRow` that are compared beside bytes, kernels and times."""


@dataclass(frozen=True)
class Change:
    """One field of a layer that differs: its values as text."""

    field: str
    before: str
    after: str


@dataclass(frozen=True)
class LayerChange:
    """One layer in both artefacts.

    Attributes:
        name: module path.
        only: "" for a layer of both, else "before" or "after".
        changes: what differs.
        weight_bytes: before and after, 0 where it is missing.
        activation_bytes: likewise.
        seconds: before and after, None where not measured.
    """

    name: str
    only: str
    changes: tuple[Change, ...]
    weight_bytes: tuple[int, int]
    activation_bytes: tuple[int, int]
    seconds: tuple[float | None, float | None]


@dataclass(frozen=True)
class Comparison:
    """Two artefacts.

    Attributes:
        names: what the two are.
        options: facts of the whole that differ.
        layers: every layer of either, in the order of the first.
        seconds: of the whole run, before and after.
        weight_bytes: of all constants.
        kernels: number of kernel calls.
    """

    names: tuple[str, str]
    options: tuple[Change, ...]
    layers: tuple[LayerChange, ...]
    seconds: tuple[float | None, float | None]
    weight_bytes: tuple[int, int]
    kernels: tuple[int, int]
    schema: str = SCHEMA


def compare(before: Explanation, after: Explanation) -> Comparison:
    """Set two explanations side by side; layers are matched by their module path."""
    old = {layer.name: layer for layer in before.layers}
    new = {layer.name: layer for layer in after.layers}
    facts = ("name", "form", "target")
    return Comparison(
        names=(_title(before), _title(after)),
        options=tuple(
            Change(field, getattr(before, field), getattr(after, field))
            for field in facts
            if getattr(before, field) != getattr(after, field)
        ),
        layers=tuple(
            _layer(name, old.get(name), new.get(name)) for name in dict.fromkeys([*old, *new])
        ),
        seconds=(before.totals.seconds, after.totals.seconds),
        weight_bytes=(before.totals.weight_bytes, after.totals.weight_bytes),
        kernels=(before.totals.kernels, after.totals.kernels),
    )


def compare_lines(found: Comparison) -> Iterator[str]:
    """The comparison as text: the whole, what changed, and bytes and times by layer."""
    yield from wrapped(f"before: {found.names[0]}")
    yield from wrapped(f"after:  {found.names[1]}")
    for change in found.options:
        yield from wrapped(f"{change.field}: {change.before} -> {change.after}")
    yield f"constants: {size(found.weight_bytes[0])} -> {size(found.weight_bytes[1])}"
    yield f"kernels: {found.kernels[0]} -> {found.kernels[1]}"
    yield f"run: {time(found.seconds[0])} -> {time(found.seconds[1])} us{_ratio(found.seconds)}"
    yield ""
    changed = [layer for layer in found.layers if layer.only or layer.changes]
    yield f"{len(changed)} of {len(found.layers)} layers changed"
    for layer in changed:
        yield from wrapped(f"  {layer.name}{f': only {layer.only}' if layer.only else ''}")
        for change in layer.changes:
            yield from wrapped(f"      {change.field}: {change.before} -> {change.after}")
    yield ""
    header = ("layer", "weights", "->", "tensors", "->", "us", "->", "ratio")
    rows = [
        (
            layer.name,
            *map(size, layer.weight_bytes),
            *map(size, layer.activation_bytes),
            *map(time, layer.seconds),
            _ratio(layer.seconds).strip(" ()") or "-",
        )
        for layer in found.layers
    ]
    yield from columns([header, *rows])


def _title(found: Explanation) -> str:
    return f"{found.name} ({found.form}) for {found.target}"


def _ratio(seconds: tuple[float | None, float | None]) -> str:
    before, after = seconds
    return f" ({percent(after / before)})" if before and after is not None else ""


def _layer(name: str, old: LayerRow | None, new: LayerRow | None) -> LayerChange:
    rows = (old, new)
    changes: tuple[Change, ...] = ()
    if old is not None and new is not None:
        changes = tuple(
            Change(field, _text(getattr(old, field)), _text(getattr(new, field)))
            for field in _FIELDS
            if getattr(old, field) != getattr(new, field)
        )
    first, second = (row.timing.seconds if row and row.timing else None for row in rows)
    return LayerChange(
        name=name,
        only="" if old and new else "before" if old else "after",
        changes=changes,
        weight_bytes=_pair(*(row.weight_bytes if row else 0 for row in rows)),
        activation_bytes=_pair(*(row.activation_bytes if row else 0 for row in rows)),
        seconds=(first, second),
    )


def _pair(before: int, after: int) -> tuple[int, int]:
    return before, after


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)
