"""An explanation as lines of text, 100 columns wide at most."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tvm_insta.report.tables import columns, shape, size
from tvm_insta.report.times_text import kernel_table, run_lines, short, wrapped

if TYPE_CHECKING:
    from tvm_insta.report.rows import Explanation, LayerRow


def explain_lines(found: Explanation) -> Iterator[str]:
    """Everything that explain knows of an artefact."""
    totals = found.totals
    share = 100 * totals.binary_macs / totals.macs if totals.macs else 0.0
    yield from wrapped(
        f"{found.name} ({found.form}) for {found.target}: {totals.binary_layers} of "
        f"{totals.layers} layers on packed bits, {share:.1f} % of {totals.macs / 1e6:.1f} M "
        f"multiply-accumulates; {totals.kernels} kernels, {size(totals.weight_bytes)} of constants"
    )
    yield from run_lines(found)
    yield ""
    yield from columns([_LAYER_HEADER, *map(_layer, found.layers)], left=2)
    floats = [layer for layer in found.layers if layer.kind != "binary"]
    if floats:
        yield ""
        yield "why layers stay float"
    for layer in floats:
        place = f" [{layer.line}]" if layer.line else ""
        yield from wrapped(f"  {layer.name} ({layer.op}){place}: {layer.reason}")
        for advice in layer.advice:
            yield from wrapped(f"      {advice.code}: {advice.change}")
    yield from _notes(found)
    yield ""
    yield from kernel_table(found)
    yield ""
    yield "what was fused into kernels of layers"
    fused = defaultdict(list)
    for kernel in found.kernels:
        if kernel.layers:
            fused[" + ".join(map(short, kernel.operators))].append(kernel.layers[0])
    for operators, names in fused.items():
        yield from wrapped(f"  {operators}: {_some(names)}")
    yield ""
    yield "what this build does not use" if found.missed else "nothing is left unused"
    for each in found.missed:
        yield from wrapped(f"  {each.what}: {each.change}")


_LAYER_HEADER = (
    *("layer", "schedule", "bits", "in", "out", "shape", "MMAC", "weights", "tensors"),
)


def _layer(row: LayerRow) -> tuple[str, ...]:
    bits = f"{row.activation_bits}x{row.weight_bits}" if row.kind == "binary" else "-"
    return (
        row.name,
        f"{row.family} {row.state}",
        bits,
        _dtype(row.input),
        _dtype(row.output),
        shape(row.shape),
        f"{row.macs / 1e6:.1f}",
        size(row.weight_bytes),
        size(row.activation_bytes),
    )


def _notes(found: Explanation) -> Iterator[str]:
    notes = defaultdict(list)
    for layer in found.layers:
        for note in layer.notes:
            notes[note].append(layer.name)
        if layer.fallback:
            notes[f"slower schedule, because: {layer.fallback}"].append(layer.name)
    if notes:
        yield ""
        yield "notes"
    for note, names in notes.items():
        yield from wrapped(f"  {note}: {_some(names)}")


def _some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    few = 4
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more


def _dtype(name: str) -> str:
    """A dtype in a few letters: "float32" is f32."""
    return name.replace("float", "f").replace("uint", "u").replace("int", "i")
