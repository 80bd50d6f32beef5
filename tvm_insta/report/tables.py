"""Tables of text for terminals, and the numbers in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

WIDTH = 100
"""Columns that a line of a report may have."""
_GAP = 2


def columns(
    rows: Sequence[Sequence[str]], *, left: int = 1, cuts: int = 0, width: int = WIDTH
) -> Iterator[str]:
    """The rows as lines of equal columns; the first row is the header.

    Args:
        rows: cells, as many in each row.
        left: how many columns are aligned to the left.
        cuts: the column whose cells are cut in their middle where a line would be too long.
        width: of a line.
    """
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    spare = width - sum(widths) - _GAP * (len(widths) - 1)
    widths[cuts] = max(widths[cuts] + min(spare, 0), len(rows[0][cuts]), 8)
    for row in rows:
        cells = [
            cut(cell, size).ljust(size) if at < left else cell.rjust(size)
            for at, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        yield (" " * _GAP).join(cells).rstrip()


def cut(text: str, width: int) -> str:
    """A text of at most this width: what is too long loses its middle."""
    if len(text) <= width:
        return text
    end = (width - 2) // 2
    return f"{text[: width - 2 - end]}..{text[len(text) - end :]}"


def size(count: float) -> str:
    """Bytes for people."""
    if count >= 1_000_000:
        return f"{count / 1e6:.2f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 1_000 else f"{count:.0f} B"


def shape(dims: Sequence[int | str]) -> str:
    """The dimensions of one image."""
    return "x".join(str(dim) for dim in dims) or "1"


def time(seconds: float | None) -> str:
    """Microseconds, "-" if unknown."""
    return "-" if seconds is None else f"{1e6 * seconds:.1f}"


def percent(share: float | None) -> str:
    """A share, "-" if unknown."""
    return "-" if share is None else f"{100 * share:.1f}%"
