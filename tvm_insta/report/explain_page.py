"""An explanation, or a comparison of two, as a page for a browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_insta.report import svg
from tvm_insta.report.compare import Comparison
from tvm_insta.report.explanation import peak_of
from tvm_insta.report.graph import graph, kind_of
from tvm_insta.report.names import parse
from tvm_insta.report.page import Cell, document, facts, plain_table, section, table
from tvm_insta.report.rows import Explanation, KernelRow, LayerRow, Timing
from tvm_insta.report.tables import percent, shape, size, time

_LAYERS = (
    *("layer", "kind", "op", "bits", "in", "out", "shape", "MMAC", "weights", "tensors", "family"),
    *("schedule", "us", "share", "of peak", "why float, notes"),
)
_LAYER_NUMBERS = (7, 8, 9, 12, 13, 14)
_KERNELS = (
    *("#", "layer", "operators", "rule", "schedule", "shape", "MMAC", "bytes", "us", "share"),
    *("GMAC/s", "of peak", "fallback"),
)
_KERNEL_NUMBERS = (0, 6, 7, 8, 9, 10, 11)


def explain_page(found: Explanation) -> str:
    """The page: facts, bars, roofline, layers, kernels, graph, and what is not used."""
    parts = [facts(_facts(found)), _bars(found)]
    roof = _roofline(found)
    if roof:
        parts.append(
            section("Roofline: kernels of layers under this machine's measured peaks", roof)
        )
    layers = table("layers", _LAYERS, map(_layer, found.layers), numbers=_LAYER_NUMBERS)
    kernels = table("kernels", _KERNELS, map(_kernel, found.kernels), numbers=_KERNEL_NUMBERS)
    parts.append(section("Layers", layers))
    floats = [layer for layer in found.layers if layer.kind != "binary"]
    if floats:
        parts.append(section("Why layers stay float", plain_table(dict(map(_why, floats)))))
    if found.missed:
        missed = plain_table({each.what: each.change for each in found.missed})
        parts.append(section("What this build does not use", missed))
    parts.append(section("Kernels, in the order of execution", kernels))
    parts.append(section("Graph of kernels (wheel: zoom, drag: move)", graph(found.kernels)))
    return document(f"{found.name}: what became of every layer", _subtitle(found), parts)


def compare_page(found: Comparison) -> str:
    """The page of two artefacts: the whole, and a table of layers."""
    rows = [
        [
            Cell(layer.name),
            Cell(f"only {layer.only}" if layer.only else "; ".join(c.field for c in layer.changes)),
            *(Cell(size(n), n) for n in (*layer.weight_bytes, *layer.activation_bytes)),
            *(Cell(time(s), s) for s in layer.seconds),
            Cell(
                "; ".join(f"{c.field}: {c.before} -> {c.after}" for c in layer.changes), wide=True
            ),
        ]
        for layer in found.layers
    ]
    header = ("layer", "changed", "weights", "then", "tensors", "then", "us", "then", "how")
    whole = {
        "us of a run": " -> ".join(map(time, found.seconds)),
        "constants": " -> ".join(map(size, found.weight_bytes)),
        "kernels": " -> ".join(map(str, found.kernels)),
    }
    content = table("layers", header, rows, numbers=(2, 3, 4, 5, 6, 7))
    return document(
        "What changed", " -> ".join(found.names), [facts(whole), section("Layers", content)]
    )


def _subtitle(found: Explanation) -> str:
    text = f"{found.form} form, for {found.target}"
    if found.times is not None:
        times = found.times
        text += f"; times: median of {times.repeat} runs, batch {times.batch}, "
        text += f"{times.threads} threads, {times.cpu}"
    return text


def _facts(found: Explanation) -> dict[str, str]:
    totals = found.totals
    share = totals.binary_macs / totals.macs if totals.macs else 0.0
    result = {
        "layers on packed bits": f"{totals.binary_layers} of {totals.layers}",
        f"of {totals.macs / 1e6:.0f} M multiply-accumulates": percent(share),
        "kernels": str(totals.kernels),
        "constants": size(totals.weight_bytes),
    }
    if totals.working_set is not None:
        result["working set"] = size(totals.working_set)
    if found.times is not None:
        result["a run"] = f"{1e3 * found.times.seconds:.2f} ms"
        result["of it in kernels"] = percent(found.times.counted)
    return result


def _bars(found: Explanation) -> str:
    latency = [
        svg.Bar(
            kernel.layers[0] if kernel.layers else " + ".join(kernel.operators),
            kernel.timing.seconds,
            f"{time(kernel.timing.seconds)} us",
            kind_of(kernel),
        )
        for kernel in found.kernels
        if kernel.timing is not None
    ]
    stored = [
        svg.Bar(layer.name, layer.weight_bytes, size(layer.weight_bytes), layer.kind)
        for layer in found.layers
    ]
    moved = [
        svg.Bar(layer.name, layer.activation_bytes, size(layer.activation_bytes), layer.kind)
        for layer in found.layers
    ]
    right = section("Bytes of weights", _largest(stored, 18, size))
    right += section("Bytes of tensors moved", _largest(moved, 18, size))
    if not latency:
        return f'<div class="two">{right}</div>'
    left = section("Time of kernels", _largest(latency, 42, lambda s: f"{time(s)} us"))
    return f'<div class="two"><div>{left}</div><div>{right}</div></div>'


def _largest(bars: Sequence[svg.Bar], most: int, text: Callable[[float], str]) -> str:
    """The longest bars, and one for all others."""
    bars = sorted(bars, key=lambda bar: -bar.value)
    others = bars[most:]
    if others:
        rest = sum(bar.value for bar in others)
        bars = [*bars[:most], svg.Bar(f"{len(others)} others", rest, text(rest))]
    return svg.bars(bars)


def _roofline(found: Explanation) -> str:
    times = found.times
    if times is None or times.peaks is None:
        return ""
    peaks, threads = times.peaks, times.threads
    points = [
        svg.Point(
            ", ".join(kernel.layers),
            kernel.operations / max(kernel.weight_bytes / times.batch + kernel.activation_bytes, 1),
            1e-9 * times.batch * kernel.operations / kernel.timing.seconds,
            kind_of(kernel),
        )
        for kernel in found.kernels
        if kernel.timing is not None and kernel.timing.seconds and kernel.layers
    ]
    used = {peak_of(kernel.operators, peaks) for kernel in found.kernels if kernel.layers}
    roofs = [
        svg.Roof(f"{kind} {rate * threads:.0f} GMAC/s", rate * threads, kind)
        for kind, rate in (("binary", peaks.binary_gmacs), ("float", peaks.float_gmacs))
        if rate in used
    ]
    slopes = [
        svg.Slope(f"copy in cache {peaks.cache_gbs * threads:.0f} GB/s", peaks.cache_gbs * threads),
        svg.Slope(f"copy in memory {peaks.memory_gbs:.0f} GB/s", peaks.memory_gbs),
    ]
    return svg.roofline(points, roofs, slopes)


def _layer(row: LayerRow) -> list[Cell]:
    bits = f"{row.activation_bits}x{row.weight_bits}" if row.kind == "binary" else "-"
    why = ", ".join([*(each.code for each in row.advice), *row.notes])
    seconds, share, peak = _timing(row.timing)
    return [
        Cell(row.name),
        Cell(row.kind, kind=row.kind),
        Cell(row.op),
        Cell(bits),
        Cell(row.input),
        Cell(row.output),
        Cell(shape(row.shape)),
        Cell(f"{row.macs / 1e6:.1f}", row.macs),
        Cell(size(row.weight_bytes), row.weight_bytes),
        Cell(size(row.activation_bytes), row.activation_bytes),
        Cell(row.family),
        Cell(row.state),
        *(seconds, share, peak),
        Cell(why, wide=True),
    ]


def _why(row: LayerRow) -> tuple[str, str]:
    """A float layer, and its reasons with what to change."""
    changes = "; ".join(f"{each.code}: {each.change}" for each in row.advice)
    place = f" [{row.line}]" if row.line else ""
    return f"{row.name} ({row.op}){place}", f"{row.reason}. {changes}"


def _kernel(row: KernelRow) -> list[Cell]:
    moved = row.weight_bytes + row.activation_bytes
    seconds, share, peak = _timing(row.timing)
    rate = None if row.timing is None else row.timing.gmacs
    return [
        Cell(str(row.index), row.index),
        Cell(", ".join(row.layers) or "-"),
        Cell(" + ".join(parse(name).short for name in row.operators), wide=True),
        Cell(row.rule),
        Cell(row.state),
        Cell(shape(row.shape)),
        Cell(f"{row.macs / 1e6:.1f}" if row.macs else "-", row.macs),
        Cell(size(moved), moved),
        *(seconds, share),
        Cell("-" if rate is None else f"{rate:.1f}", rate),
        peak,
        Cell(row.fallback or "", wide=True),
    ]


def _timing(timing: Timing | None) -> tuple[Cell, Cell, Cell]:
    if timing is None:
        return Cell("-"), Cell("-"), Cell("-")
    return (
        Cell(time(timing.seconds), timing.seconds),
        Cell(percent(timing.share), timing.share),
        Cell(percent(timing.of_peak), timing.of_peak),
    )
