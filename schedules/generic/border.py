"""Loop nests that write the zeros around a packed image."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm.ir import Range

from tvm_insta.schedules.generic.comparisons import element
from tvm_insta.schedules.generic.loops import index, nest_of


def border(buffer: Any, pad: tuple[int, ...], used: int | None) -> list[tirx.Stmt]:
    """The loop nests for a buffer [N, H, W, words], or [N, H, W, bytes].

    Args:
        buffer: what is written.
        pad: pixels of zeros: top, left, bottom, right.
        used: the zeros behind so many bytes of each pixel are written, too; None for none.
    """
    batch, height, width, words = buffer.shape
    top, left, bottom, right = pad
    columns, whole = (index(0), width), (index(0), words)
    inner = (index(top), height - top - bottom)
    areas = [
        (top, (index(0), index(top)), columns, whole),
        (bottom, (height - bottom, index(bottom)), columns, whole),
        (left, inner, (index(0), index(left)), whole),
        (right, inner, (width - right, index(right)), whole),
    ]
    if used is not None:
        pixels, behind = (index(left), width - left - right), index(int(words) - used)
        areas.append((1, inner, pixels, (index(used), behind)))
    nests = []
    for number, (thickness, (y0, count_y), (x0, count_x), (w0, count_w)) in enumerate(areas):
        if not thickness:
            continue
        extents = [batch, count_y, count_x, count_w]
        loops = [tirx.Var(f"border{axis}", "int64") for axis in "nyxw"]
        axes = [
            tirx.IterVar(Range(index(0), size), tirx.Var(f"v_{axis}", "int64"), 0)
            for axis, size in zip("nyxw", extents, strict=True)
        ]
        n, y, x, w = (axis.var for axis in axes)
        where = [n, y0 + y, x0 + x, w0 + w]
        block = s_tir.SBlock(
            axes,
            [],
            [element(buffer, where)],
            f"pack_border{number}",
            tirx.BufferStore(buffer, tirx.const(0, buffer.dtype), where),
        )
        nest: tirx.Stmt = s_tir.SBlockRealize(loops, True, block)
        nests.append(nest_of(nest, list(zip(loops, extents, strict=True))))
    return nests
