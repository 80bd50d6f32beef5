"""The zeros around a packed image: how they are found, and loop nests that write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tvm import s_tir, tirx
from tvm.ir import Range

from tvm_insta.schedules.generic.comparisons import element
from tvm_insta.schedules.generic.loops import index, innermost, nest_of


class Padded(NamedTuple):
    """The nest that packs an image and, where the image is padded, the one that pads it.

    Attributes:
        target: the buffer that is written last.
        pad: pixels of zeros around the image: top, left, bottom, right.
        between: buffers that hold the image without padding; nobody needs them once the packing
            writes into `target`.
        end: number of the nest behind both.
    """

    target: Any
    pad: tuple[int, ...]
    between: list[Any]
    end: int


def find_padding(nests: Sequence[tirx.Stmt], at: int, name: str) -> Padded:
    """What pads the result of a nest.

    Args:
        nests: of the function.
        at: the nest that packs.
        name: of the block that pads, where there is one.
    """
    target = innermost(nests[at]).block.writes[0].source
    behind = innermost(nests[at + 1]).block if at + 1 < len(nests) else None
    if behind is None or behind.name_hint != name:
        return Padded(target, (0, 0, 0, 0), [], at + 1)
    pad = tuple(int(size) for size in behind.annotations["pad"])
    return Padded(behind.writes[0].source, pad, [target], at + 2)


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
