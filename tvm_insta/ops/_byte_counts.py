"""The TE of `bitserial_conv2d_blocked` for CPUs that count the bits of bytes only.

Such is x86 before VPOPCNTDQ, which looks up the bits of half a byte with `pshufb`.

A lane of 32 bits holds four counts of a byte each, side by side; they add up without a carry for at
most 31 words (31 * 8 = 248). So a sum has two steps:

    bconv_partial[n, y, x, outer..., o] uint32   four sums of bytes, over the inner axes
    bconv[n, y, x, o] int32                      their total over the outer axes, plane p times 2**p

The inner axes are as many of the kernel rows, the kernel columns and the words as 31 allows; the
words are cut into equal parts where that lets both kernel axes be inner.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import te, tirx

from ._common import extent, known, reduce_axis

_MOST = 31  # words whose counts, at most 8 for a byte, a byte can hold

_NAME = "tirx.insta_byte_counts"
_PURE = 1  # TVM's CallEffectKind


def _lower(call: tirx.Call) -> tirx.Expr:
    """``popcount`` of the bytes of a word, or of the words of a vector."""
    (word,) = call.args
    lanes = tvm.DataType(str(word.ty.dtype)).lanes
    if lanes == 1:
        return _scalar(word)
    count = tirx.popcount(tirx.reinterpret(f"uint8x{4 * lanes}", word))
    return tirx.reinterpret(str(word.ty.dtype), count)


def _scalar(word: tirx.Expr) -> tirx.Expr:
    """The same for one word, in plain integers: twos, then fours, then eights of bits."""

    def part(value: tirx.Expr, shift: int, mask: int) -> tirx.Expr:
        return (value >> tirx.const(shift, "uint32")) & tirx.const(mask, "uint32")

    twos = word - part(word, 1, 0x55555555)
    fours = part(twos, 0, 0x33333333) + part(twos, 2, 0x33333333)
    return part(fours + part(fours, 4, 0x0FFFFFFF), 0, 0x0F0F0F0F)


tvm.ir.register_op_attr(_NAME, "TVectorizable", True)
tvm.ir.register_op_attr(_NAME, "TCallEffectKind", _PURE)
tvm.ir.register_op_attr(_NAME, "TScriptPrinterName", _NAME.removeprefix("tirx."))
tirx.register_intrin_lowering(_NAME, target="default", f=_lower, level=10)


def byte_counts(word: tirx.Expr) -> tirx.Expr:
    """uint32 -> uint32: each byte of the result is the number of 1 bits of that byte."""
    return tirx.call_intrin("uint32", _NAME, word)


def total(counts: tirx.Expr) -> tirx.Expr:
    """The sum of the four bytes of a uint32, as int32."""
    pairs = tirx.const(0x00FF00FF, "uint32")
    halves = (counts & pairs) + ((counts >> tirx.const(8, "uint32")) & pairs)
    low = halves & tirx.const(0xFFFF, "uint32")
    return (low + (halves >> tirx.const(16, "uint32"))).astype("int32")


def inner_axes(kernel_h: int, kernel_w: int, words: int) -> tuple[int, int, int]:
    """Kernel rows, kernel columns and words that are summed in bytes; each divides its axis."""
    candidates = [
        (rows, columns, part)
        for rows in (kernel_h, 1)
        for columns in (kernel_w, 1)
        for part in range(1, words + 1)
        if words % part == 0 and rows * columns * part <= _MOST
    ]
    return max(candidates, key=lambda c: (c[0] * c[1] * c[2], c))


def te_popsum(
    data: te.Tensor,
    weight: te.Tensor,
    image: Sequence[tirx.Expr],
    *,
    strides: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bits: int,
) -> te.Tensor:
    """Blocks "bconv_partial" and "bconv".

    Args:
        data: [N, Hp, Wp, bits * groups * words] uint32.
        weight: [O / L, KH, KW, words, L] uint32.
        image: OH, OW.
        strides: vertical, horizontal.
        dilation: vertical, horizontal.
        groups: convolution groups.
        bits: bits of an activation.

    Returns:
        [N, OH, OW, O] int32.
    """
    blocks, kernel_h, kernel_w, words, lanes = map(known, weight.shape)
    out = blocks * lanes
    rows, columns, part = inner_axes(kernel_h, kernel_w, words)
    ky, kx = reduce_axis(rows, "ky"), reduce_axis(columns, "kx")
    word = reduce_axis(part, "word")
    sizes = (kernel_h // rows, kernel_w // columns, bits, words // part)
    names = ("ky", "kx", "plane", "word")
    outer = [reduce_axis(s, f"outer_{n}") for s, n in zip(sizes, names, strict=True)]
    shape = [data.shape[0], *image, extent(out)]

    def differ(
        n: tirx.Expr,
        y: tirx.Expr,
        x: tirx.Expr,
        far_y: tirx.Expr,
        far_x: tirx.Expr,
        plane: tirx.Expr,
        far_word: tirx.Expr,
        o: tirx.Expr,
    ) -> tirx.Expr:
        row, column = far_y * rows + ky, far_x * columns + kx
        at = far_word * part + word
        group = 0 if groups == 1 else o // (out // groups)
        theirs = data(
            n,
            y * strides[0] + row * dilation[0],
            x * strides[1] + column * dilation[1],
            (plane * groups + group) * words + at,
        )
        counts = byte_counts(theirs ^ weight(o // lanes, row, column, at, o % lanes))
        return te.sum(counts, axis=[ky, kx, word])

    apart = [extent(size) for size in sizes]
    partial = te.compute([*shape[:3], *apart, shape[3]], differ, name="bconv_partial")

    def popsum(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        value = total(partial(n, y, x, *outer, o))
        if bits > 1:
            value = value << outer[2].var.astype("int32")
        return te.sum(value, axis=outer)

    return te.compute(shape, popsum, name="bconv", attrs={"schedule_rule": "insta_bconv"})
