"""The TE of `bitserial_conv2d_blocked` for CPUs whose sums of counts begin in bytes.

A byte holds few counts, so a sum has two steps:

    bconv_partial[n, y, x, outer..., o]   sums of bytes, over the inner axes
    bconv[n, y, x, o]                     their total over the outer axes, plane p times 2**p

The inner axes are as many of the kernel rows, the kernel columns and the pieces of a tap as a byte
has room for; the pieces are cut into equal parts where that lets both kernel axes be inner.
`BYTES` and `NIBBLES` say what a piece is and how it is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from ._byte_counts import byte_counts, total
from ._common import WORD, extent, known, reduce_axis
from .nibble_counts import BITS, llvm_functions, nibble, nibble_counts


@dataclass(frozen=True)
class Form:
    """How the pieces of a tap are counted.

    Attributes:
        bits: of a piece.
        most: counts that a byte has room for.
        count: (word of data, position of the piece in it, piece of the weight) -> its counts.
        widen: sums of bytes -> their total, as an unsigned integer.
        total: dtype of the total, where it has room.
        rule: name of the schedule rule, on the block of the total.
        attrs: other attributes of that block.
    """

    bits: int
    most: int
    count: Callable[[tirx.Expr, Any, tirx.Expr], tirx.Expr]
    widen: Callable[[tirx.Expr], tirx.Expr]
    total: str
    rule: str
    attrs: Callable[[], Mapping[str, str]] = dict


BYTES = Form(
    bits=32,
    most=31,  # each at most 8
    count=lambda word, _, weight: byte_counts(word ^ weight),
    widen=total,
    total="int32",
    rule="insta_bconv",
)
"""Words of weights: four counts side by side in a lane of 32 bits, see `_byte_counts`."""

NIBBLES = Form(
    bits=BITS,
    most=63,  # each at most 4
    count=lambda word, position, weight: nibble_counts(nibble(word, position), weight),
    widen=lambda counts: counts,
    total="uint16",
    rule="insta_bconv_nibbles",
    attrs=lambda: {"pragma_import_llvm": llvm_functions()},
)
"""Four bits of weights in a byte: a count in a lane of 8 bits, see `nibble_counts`."""


def inner_axes(kernel_h: int, kernel_w: int, pieces: int, most: int) -> tuple[int, int, int]:
    """Kernel rows, kernel columns and pieces that are summed in bytes; each divides its axis."""
    candidates = [
        (rows, columns, part)
        for rows in (kernel_h, 1)
        for columns in (kernel_w, 1)
        for part in range(1, pieces + 1)
        if pieces % part == 0 and rows * columns * part <= most
    ]
    return max(candidates, key=lambda c: (c[0] * c[1] * c[2], c))


def te_popsum(
    data: te.Tensor,
    weight: te.Tensor,
    image: Sequence[tirx.Expr],
    form: Form,
    *,
    strides: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bits: int,
) -> te.Tensor:
    """Blocks "bconv_partial" and "bconv".

    Args:
        data: [N, Hp, Wp, bits * groups * words] uint32.
        weight: [O / L, KH, KW, pieces, L], of words in uint32 or of nibbles in uint8.
        image: OH, OW.
        form: `BYTES` or `NIBBLES`.
        strides: vertical, horizontal.
        dilation: vertical, horizontal.
        groups: convolution groups.
        bits: bits of an activation.

    Returns:
        [N, OH, OW, O] int32, or uint16 where the form has such totals and they fit.
    """
    blocks, kernel_h, kernel_w, pieces, lanes = map(known, weight.shape)
    out, per_word = blocks * lanes, WORD // form.bits
    words = -(-pieces // per_word)
    rows, columns, part = inner_axes(kernel_h, kernel_w, pieces, form.most)
    ky, kx = reduce_axis(rows, "ky"), reduce_axis(columns, "kx")
    piece = reduce_axis(part, "piece")
    sizes = (kernel_h // rows, kernel_w // columns, bits, pieces // part)
    names = ("ky", "kx", "plane", "piece")
    outer = [reduce_axis(s, f"outer_{n}") for s, n in zip(sizes, names, strict=True)]
    shape = [data.shape[0], *image, extent(out)]

    def differ(
        n: tirx.Expr,
        y: tirx.Expr,
        x: tirx.Expr,
        far_y: tirx.Expr,
        far_x: tirx.Expr,
        plane: tirx.Expr,
        far_piece: tirx.Expr,
        o: tirx.Expr,
    ) -> tirx.Expr:
        row, column = far_y * rows + ky, far_x * columns + kx
        at = far_piece * part + piece
        group = 0 if groups == 1 else o // (out // groups)
        theirs = data(
            n,
            y * strides[0] + row * dilation[0],
            x * strides[1] + column * dilation[1],
            (plane * groups + group) * words + at // per_word,
        )
        mine = weight(o // lanes, row, column, at, o % lanes)
        return te.sum(form.count(theirs, at % per_word, mine), axis=[ky, kx, piece])

    apart = [extent(size) for size in sizes]
    partial = te.compute([*shape[:3], *apart, shape[3]], differ, name="bconv_partial")
    largest = (2**bits - 1) * kernel_h * kernel_w * pieces * form.bits
    dtype = form.total if largest < 2**16 else "int32"

    def popsum(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        value = form.widen(partial(n, y, x, *outer, o)).astype(dtype)
        if bits > 1:
            value = value << outer[2].var.astype(dtype)
        return te.sum(value, axis=outer)

    attrs = {"schedule_rule": form.rule, **form.attrs()}
    return te.compute(shape, popsum, name="bconv", attrs=attrs)
