"""What `benchmarks.cuda` found, as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.cuda.card import Measured, Measurement
from benchmarks.cuda.counts import NetworkCounts

_MIB = 1 << 20
_COLUMNS = (
    *("layer", "kernel", "launches", "MiB read", "MiB written"),
    *("blocks", "threads", "registers", "resident", "waves", "bound by"),
)


def counts_text(found: NetworkCounts) -> str:
    """A network's kernels; no figure of it is a time."""
    lines = [
        f"{found.model} for {found.arch}, one image: {found.launches} launches. Counted on the "
        f"emulated device; the limits are those of a model of the {found.card}, and no times.",
        "",
        _row(_COLUMNS),
        _row(["---", "---", *["---:"] * (len(_COLUMNS) - 3), "---"]),
    ]
    for kernel in found.kernels:
        sizes = [f"{size / _MIB:.3f}" for size in (kernel.bytes_read, kernel.bytes_written)]
        numbers = [kernel.blocks, kernel.threads, kernel.registers, kernel.resident, kernel.waves]
        layers = ", ".join(kernel.layers)
        cells = [
            layers,
            kernel.symbol,
            str(kernel.launches),
            *sizes,
            *map(str, numbers),
            kernel.limit,
        ]
        lines.append(_row(cells))
    read, written = (
        sum(getattr(kernel, name) for kernel in found.kernels) / _MIB
        for name in ("bytes_read", "bytes_written")
    )
    sums = ["all", "", str(found.launches), f"{read:.3f}", f"{written:.3f}"]
    lines.append(_row([*sums, *[""] * (len(_COLUMNS) - len(sums))]))
    return "\n".join(lines)


def card_text(card: str, found: Measured) -> str:
    """Validations, then a table for each network and batch."""
    lines = [f"{card}: from images on the card to logits on the card, medians of single calls."]
    for check in found.validations:
        lines.append(f"{check.model}: {'valid' if check.valid else 'NOT VALID'} ({check.said})")
    groups: dict[tuple[str, int], list[Measurement]] = {}
    for each in found.measurements:
        groups.setdefault((each.model, each.batch), []).append(each)
    for (model, batch), measured in groups.items():
        lines += ["", f"{model}, batch {batch}", "", *_table(measured)]
    return "\n".join(lines)


def _table(measured: Sequence[Measurement]) -> list[str]:
    lines = [
        _row(["engine", "ms", "10 % to 90 %", "images/s"]),
        _row(["---", "---:", "---:", "---:"]),
    ]
    for each in measured:
        if each.median is None or each.images_per_second is None:
            lines.append(_row([each.engine, "-", "-", each.reason]))
            continue
        spread = f"{each.p10:.3f} to {each.p90:.3f}"
        rate = f"{each.images_per_second:.0f}"
        lines.append(_row([each.engine, f"{each.median:.3f}", spread, rate]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
