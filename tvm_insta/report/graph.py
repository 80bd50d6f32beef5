"""The kernels of a network as a picture: a row for each depth, edges where one reads another.

The layout is Sugiyama's: a kernel lies below all it reads, an edge over several rows has a point in
each, and each row is ordered by the mean position of what it reads (K. Sugiyama, S. Tagawa and
M. Toda, IEEE Trans. SMC 11(2), 1981).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm_insta.report import names
from tvm_insta.report.page import escape
from tvm_insta.report.rows import KernelRow
from tvm_insta.report.svg import COLOURS
from tvm_insta.report.tables import cut, shape, time

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _THIN = 190, 32, 210, 56, 26
_SWEEPS = 4

_Node = tuple[int, int]
"""(kernel, row): the kernel itself in its own row, a point of its outgoing edges in a later one."""


def graph(kernels: Sequence[KernelRow]) -> str:
    """An SVG that the page's script lets zoom (wheel) and move (drag)."""
    depth = _depths(kernels)
    rows, edges = _rows(kernels, depth)
    place = _places(rows, edges)
    parts = []
    for source, target in edges:
        (x0, y0), (x1, y1) = place[source], place[target]
        y0 += _HEIGHT if depth[source[0]] == source[1] else 0
        middle = (y0 + y1) / 2
        parts.append(
            f'<path d="M{x0:.0f} {y0:.0f}C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} '
            f'{y1:.0f}" fill="none" stroke="#a0aec0"/>'
        )
    for kernel in kernels:
        parts.append(_box(kernel, *place[kernel.index, depth[kernel.index]]))
    left = min((x for x, _ in place.values()), default=0.0) - _WIDTH
    right = max((x for x, _ in place.values()), default=0.0) + _WIDTH
    height = max(depth.values(), default=0) * _DOWN + _HEIGHT + 40
    # The first rows are shown at a size that can be read; the wheel shows the rest.
    shown = min(height, 760)
    return (
        f'<svg class="zoom" data-height="{height}" preserveAspectRatio="xMidYMin meet" '
        f'viewBox="{left:.0f} -20 {right - left:.0f} {shown}">{"".join(parts)}</svg>'
    )


def _depths(kernels: Sequence[KernelRow]) -> dict[int, int]:
    """The row of each kernel: one below the last that it reads."""
    depth: dict[int, int] = {}
    for kernel in kernels:
        above = [depth[other] for other in kernel.reads if other >= 0]
        depth[kernel.index] = 1 + max(above, default=-1)
    return depth


def _rows(
    kernels: Sequence[KernelRow], depth: dict[int, int]
) -> tuple[list[list[_Node]], list[tuple[_Node, _Node]]]:
    """The nodes of each row, and the edges between neighbouring rows."""
    rows: list[list[_Node]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    edges: list[tuple[_Node, _Node]] = []
    known: set[_Node] = set()

    def add(node: _Node) -> None:
        if node not in known:
            known.add(node)
            rows[node[1]].append(node)

    for kernel in kernels:
        own = (kernel.index, depth[kernel.index])
        add(own)
        for other in kernel.reads:
            if other < 0:
                continue
            last = (other, depth[other])
            for row in range(depth[other] + 1, own[1]):
                point = (other, row)
                if point not in known:
                    add(point)
                    edges.append((last, point))
                last = point
            edges.append((last, own))
    return rows, edges


def _places(
    rows: list[list[_Node]], edges: list[tuple[_Node, _Node]]
) -> dict[_Node, tuple[float, float]]:
    above: dict[_Node, list[_Node]] = {}
    below: dict[_Node, list[_Node]] = {}
    for source, target in edges:
        above.setdefault(target, []).append(source)
        below.setdefault(source, []).append(target)
    real = {node for row in rows for node in row if _is_first(node, above)}
    x: dict[_Node, float] = {}
    for row in rows:
        _spread(row, {node: float(at) for at, node in enumerate(row)}, real, x)
    for sweep in range(_SWEEPS):
        near, order = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in order:
            wish = {
                node: sum(x[other] for other in near[node]) / len(near[node])
                if near.get(node)
                else x[node]
                for node in row
            }
            _spread(sorted(row, key=lambda node: wish[node]), wish, real, x)
    return {node: (x[node], node[1] * float(_DOWN)) for row in rows for node in row}


def _is_first(node: _Node, above: dict[_Node, list[_Node]]) -> bool:
    """Whether a node is a kernel: the point of an edge lies below a node of the same kernel."""
    return all(other[0] != node[0] for other in above.get(node, ()))


def _spread(
    row: Sequence[_Node], wish: dict[_Node, float], real: set[_Node], x: dict[_Node, float]
) -> None:
    """Place a row near what is wished, without overlap, its mean where the wishes' mean is."""
    at, last = -math.inf, 0
    placed = []
    for node in row:
        room = _ACROSS if node in real else _THIN
        at = max(wish[node], at + (room + last) / 2)
        last = room
        placed.append(at)
    if placed:
        shift = sum(wish[node] for node in row) / len(row) - sum(placed) / len(placed)
        for node, where in zip(row, placed, strict=True):
            x[node] = where + shift


def _box(kernel: KernelRow, x: float, y: float) -> str:
    name = kernel.layers[0] if kernel.layers else kernel.operators[0] if kernel.operators else "?"
    operators = " + ".join(kernel.operators)
    detail = [shape(kernel.shape)]
    if kernel.timing is not None:
        detail.append(f"{time(kernel.timing.seconds)} us")
    about = [f"{kernel.index}: {kernel.symbol}", operators, *detail, kernel.rule, kernel.state]
    return (
        f"<g><title>{escape(chr(10).join(about))}</title>"
        f'<rect x="{x - _WIDTH / 2:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" '
        f'fill="#fff" stroke="{COLOURS[kind_of(kernel)]}" stroke-width="1.6"/>'
        f'<text x="{x:.0f}" y="{y + 13:.0f}" text-anchor="middle">{escape(cut(name, 30))}</text>'
        f'<text class="quiet" x="{x:.0f}" y="{y + 26:.0f}" text-anchor="middle">'
        f"{escape(', '.join(detail))}</text></g>"
    )


def kind_of(kernel: KernelRow) -> str:
    """The colour of a kernel: "binary", "float", or "other" for one that computes no layer."""
    if names.any_binary(kernel.operators):
        return "binary"
    return "float" if kernel.layers else "other"
