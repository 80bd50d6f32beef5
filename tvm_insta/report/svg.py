"""Plots as SVG, for all pages: bars, a roofline, and steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tvm_insta.report.page import escape
from tvm_insta.report.tables import cut

COLOURS = {"binary": "#2f855a", "float": "#c05621", "other": "#718096"}
LINES = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#718096", "#b7791f", "#2c7a7b")


@dataclass(frozen=True)
class Bar:
    """One bar: its label, its length, the text behind it and its kind in `COLOURS`."""

    label: str
    value: float
    text: str
    kind: str = "other"


def bars(rows: Sequence[Bar], *, width: int = 580) -> str:
    """Horizontal bars, one below the other, in the order given."""
    row, label, right = 17, 190, 78
    most = max((bar.value for bar in rows), default=0.0) or 1.0
    parts = []
    for at, bar in enumerate(rows):
        y, length = at * row, (width - label - right) * bar.value / most
        parts.append(
            f"<g><title>{escape(bar.label)}: {escape(bar.text)}</title>"
            f'<text x="{label - 6}" y="{y + 12}" text-anchor="end">{escape(cut(bar.label, 30))}'
            f'</text><rect x="{label}" y="{y + 3}" width="{length:.1f}" height="11" '
            f'fill="{COLOURS[bar.kind]}"/><text class="quiet" x="{label + length + 4:.1f}" '
            f'y="{y + 12}">{escape(bar.text)}</text></g>'
        )
    return _svg(width, row * len(rows) + 4, "".join(parts))


@dataclass(frozen=True)
class Point:
    """A kernel in a roofline: operations for a byte, 1e9 operations per second."""

    label: str
    intensity: float
    rate: float
    kind: str


@dataclass(frozen=True)
class Roof:
    """A peak: 1e9 operations per second."""

    label: str
    rate: float
    kind: str


@dataclass(frozen=True)
class Slope:
    """A bandwidth: 1e9 bytes per second."""

    label: str
    rate: float


def roofline(
    points: Sequence[Point], roofs: Sequence[Roof], slopes: Sequence[Slope], *, width: int = 1420
) -> str:
    """Rate against operations for a byte, both axes logarithmic, below the measured peaks."""
    height, left, bottom, top, right = 430, 60, 42, 12, 16
    points = [point for point in points if point.intensity > 0 and point.rate > 0]
    xs = [point.intensity for point in points]
    xs += [roof.rate / slope.rate for roof in roofs for slope in slopes]
    ys = [point.rate for point in points] + [roof.rate for roof in roofs]
    if not xs or not ys:
        return ""
    x0, x1 = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)) + 0.3)
    y0, y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) + 0.05)

    def across(value: float) -> float:
        return left + (width - left - right) * (math.log10(value) - x0) / (x1 - x0)

    def up(value: float) -> float:
        return height - bottom - (height - bottom - top) * (math.log10(value) - y0) / (y1 - y0)

    parts = []
    for power in range(x0, x1 + 1):
        x = across(10.0**power)
        parts.append(_line(x, top, x, height - bottom, "#eceff3"))
        parts.append(_text(x, height - bottom + 16, _number(10.0**power), "middle"))
    for power in range(y0, y1 + 1):
        y = up(10.0**power)
        parts.append(_line(left, y, width - right, y, "#eceff3"))
        parts.append(_text(left - 6, y + 4, _number(10.0**power), "end"))
    parts.append(_text(width / 2, height - 6, "multiply-accumulates for a byte moved", "middle"))
    parts.append(_text(left, top + 2, "GMAC/s", "start"))
    best = max((roof.rate for roof in roofs), default=10.0**y1)
    for number, slope in enumerate(slopes):
        begin = max(10.0**x0, 10.0**y0 / slope.rate)
        end = min(best / slope.rate, 10.0**x1)
        if begin < end:
            parts.append(
                _line(
                    *(across(begin), up(begin * slope.rate)),
                    *(across(end), up(end * slope.rate)),
                    *("#4a5568", "5 3" if number else ""),
                )
            )
            parts.append(
                _text(across(begin) + 22, up(begin * slope.rate) + 4, slope.label, "start")
            )
    fastest = max((slope.rate for slope in slopes), default=math.inf)
    for roof in roofs:
        start = across(max(roof.rate / fastest, 10.0**x0))
        y, colour = up(roof.rate), COLOURS[roof.kind]
        parts.append(_line(start, y, width - right, y, colour))
        parts.append(_text(width - right - 2, y - 5, roof.label, "end"))
    for point in points:
        parts.append(
            f'<circle cx="{across(point.intensity):.1f}" cy="{up(point.rate):.1f}" r="4.5" '
            f'fill="{COLOURS[point.kind]}" fill-opacity=".75"><title>{escape(point.label)}: '
            f"{point.rate:.1f} GMAC/s, {point.intensity:.1f} MAC/byte</title></circle>"
        )
    return _svg(width, height, "".join(parts))


@dataclass(frozen=True)
class Series:
    """A curve in steps: its values at 1, 2, 3 and so on; those that are not finite are left out."""

    label: str
    values: Sequence[float]


def steps(series: Sequence[Series], *, x: str, y: str, width: int = 900) -> str:
    """Curves in steps over a count, with a legend; an empty text if no value is finite."""
    height, left, bottom, top = 380, 60, 42, 12
    finite = [v for each in series for v in each.values if math.isfinite(v)]
    if not finite:
        return ""
    count = max(2, *(len(each.values) for each in series))
    low, high = min(0.0, *finite), max(finite) * 1.05 or 1.0
    right = 230

    def across(at: float) -> float:
        return left + (width - left - right) * (at - 1) / (count - 1)

    def up(value: float) -> float:
        return height - bottom - (height - bottom - top) * (value - low) / (high - low)

    parts = []
    for tick in range(6):
        value = low + (high - low) * tick / 5
        parts.append(_line(left, up(value), width - right, up(value), "#eceff3"))
        parts.append(_text(left - 6, up(value) + 4, f"{value:.2f}", "end"))
        place = 1 + round((count - 1) * tick / 5)
        parts.append(_text(across(place), height - bottom + 16, str(place), "middle"))
    parts.append(_text((left + width - right) / 2, height - 6, x, "middle"))
    parts.append(_text(left + 4, top + 2, y, "start"))
    for number, each in enumerate(series):
        colour = LINES[number % len(LINES)]
        path = " ".join(_steps([(across(i + 1), v) for i, v in enumerate(each.values)], up))
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        y0 = top + 14 + 15 * number
        parts.append(_line(width - right + 12, y0 - 4, width - right + 30, y0 - 4, colour))
        parts.append(_text(width - right + 36, y0, cut(each.label, 30), "start"))
    return _svg(width, max(height, 15 * len(series) + 40), "".join(parts))


def _steps(values: Sequence[tuple[float, float]], up: Callable[[float], float]) -> Iterator[str]:
    begun = False
    for x, value in values:
        if math.isfinite(value):
            y = up(value)
            yield f"H{x:.1f}V{y:.1f}" if begun else f"M{x:.1f} {y:.1f}"
            begun = True


def _svg(width: float, height: float, content: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="width:100%;max-width:{width:.0f}px" '
        f'role="img">{content}</svg>'
    )


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}"'
        f' stroke-width="1.4"{dashed}/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:g}"
