"""The times of an artefact's kernels as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tvm_insta.report import names
from tvm_insta.report.tables import WIDTH, columns, cut, percent, shape, time

if TYPE_CHECKING:
    from tvm_insta.report.rows import Explanation, KernelRow, Timing


def times_lines(found: Explanation) -> Iterator[str]:
    """The run, and a row for each kernel, with the sum of the rows."""
    yield from run_lines(found)
    yield ""
    yield from kernel_table(found)
    times = found.times
    if times is not None:
        yield f"the kernels' medians sum to {1e3 * times.kernel_sum:.3f} ms"


def kernel_table(found: Explanation) -> Iterator[str]:
    """A row for each kernel, in the order of execution."""
    yield from columns([_KERNEL_HEADER, *map(_kernel, found.kernels)], left=4, cuts=1)


_KERNEL_HEADER = (
    *("#", "kernel", "rule", "schedule", "shape", "MMAC", "us", "share", "of peak", "GMAC/s"),
)


def _kernel(row: KernelRow) -> tuple[str, ...]:
    rate = None if row.timing is None else row.timing.gmacs
    return (
        str(row.index),
        cut(", ".join(row.layers) or " + ".join(map(short, row.operators)), 40),
        names.parse(row.rule).short,
        row.state + ("!" if row.fallback else ""),
        shape(row.shape),
        f"{row.macs / 1e6:.1f}" if row.macs else "-",
        *timing(row.timing),
        "-" if rate is None else f"{rate:.1f}",
    )


def timing(found: Timing | None) -> tuple[str, str, str]:
    """Microseconds, share of the kernels' time, share of the peak."""
    if found is None:
        return "-", "-", "-"
    return time(found.seconds), percent(found.share), percent(found.of_peak)


def run_lines(found: Explanation) -> Iterator[str]:
    """The time of a whole run, how much of it the kernels are, and the machine's peaks."""
    times = found.times
    if times is None:
        yield "no times: compile with --profile, then explain --measure, or bench --layers"
        return
    yield from wrapped(
        f"a run takes {1e3 * times.seconds:.3f} ms, its kernels {1e3 * times.kernel_seconds:.3f} "
        f"ms ({percent(times.counted)} of it); medians of {times.repeat} runs, batch "
        f"{times.batch}, {times.threads} threads, {times.cpu}"
    )
    if times.peaks is not None:
        peaks = times.peaks
        yield from wrapped(
            f"peaks of one core: {peaks.binary_gmacs:.0f} binary and {peaks.float_gmacs:.1f} "
            f"float32 GMAC/s; copies {peaks.cache_gbs:.0f} GB/s in cache, {peaks.memory_gbs:.0f} "
            "in memory"
        )


def short(operator: str) -> str:
    """An operator without the name of its dialect."""
    return names.parse(operator).short


def wrapped(text: str) -> list[str]:
    """A text as lines; what follows the first is indented by four more."""
    start = text[: len(text) - len(text.lstrip())] + "    "
    return textwrap.wrap(text, WIDTH, subsequent_indent=start, break_on_hyphens=False)
