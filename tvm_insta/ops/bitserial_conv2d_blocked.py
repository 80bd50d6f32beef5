"""`insta.bitserial_conv2d_blocked`: `bitserial_conv2d` in the form that runs fast.

data [N, Hp, Wp, bits * groups * Cwg] uint32, already padded with 0 words; weight
[O / L, KH, KW, Cwg, L] uint32, L output channels side by side for the vector lanes, or the same
bits in narrower pieces, [O / L, KH, B, KW, L] uint8 or uint16 (see `_narrow_sums`); base
[RC, CC, O] int32; row_class [OH] int32, col_class [OW] int32. Result [N, OH, OW, O] int32:

    popsum_p[n, y, x, o] = sum over ky, kx, w of popcount(data ^ weight) for plane p
    out = base[row_class[y], col_class[x], o] - alpha * sum_p 2**p * popsum_p

Why this is exact. Let M = 2**bits - 1, Cg = C / groups, and let pop(tap) be the popcount of one
tap's weight words. A padded word is 0, so a padded tap adds popcount(0 ^ w) = pop(tap) per plane,
M * pop(tap) over all planes.

bipolar, alpha = 2: over the taps that are valid,
    dot = M * Cg * valid - 2 * popsum(valid) = M * Cg * valid - 2 * (popsum - M * sum pop(padded)),
    so base = M * (Cg * valid + 2 * sum over padded taps of pop(tap)).
unsigned, alpha = 1: x . w = pop(w) - popcount(x ^ w) per plane, and a padded tap cancels itself,
    so base = M * sum over all taps of pop(tap), the same in every border class.

Which taps are padded depends on y and x separately: output rows with the same set of valid kernel
rows form one class (row_class), columns likewise. `packing.border_tables` computes all three.
No partial sum leaves int32: type inference refuses shapes for which it could.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax, te, tirx

from . import _narrow_sums, _sums_of_bytes
from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    WORD,
    Dim,
    expect_dim,
    expect_divisible,
    expect_int32,
    extent,
    fail,
    known,
    output_image,
    reduce_axis,
)
from ._declare import Argument, LayerAttributes, Operator, choice, integer, integers
from ._narrow_sums import PIECE_BITS, pairs_fit, pieces_fit
from .nibble_counts import BITS as NIBBLE

COUNTS = ("pieces", "bytes", "nibbles")
"""What a binary convolution counts at a time.

- "pieces": whole pieces of the weight, words or what is narrower.
- "bytes": the bytes of words, for CPUs that count no more; for a weight of words.
- "nibbles": four bits, by table look-ups; for a weight [O / L, KH, KW, nibbles, L] uint8, see
  `nibble_counts`. The nibbles of a tap are those of its channels.
"""


@dataclass(frozen=True, kw_only=True)
class BitserialConv2dBlocked(LayerAttributes):
    """See the module's docstring.

    Attributes:
        strides: vertical, horizontal.
        dilation: vertical, horizontal.
        groups: convolution groups; a group need not be a multiple of L output channels.
        bits: bits of an activation.
        alpha: 2 for bipolar activations, 1 for unsigned ones.
        counts: what is counted at a time, see `COUNTS`; the result is the same.
    """

    strides: Sequence[int] = integers(2, low=1, default=(1, 1))
    dilation: Sequence[int] = integers(2, low=1, default=(1, 1))
    groups: int = integer(low=1, default=1)
    bits: int = integer(low=1, high=4, default=1)
    alpha: int = integer(low=1, high=2, default=2)
    counts: str = choice(COUNTS, default="pieces")


_FORMS = {"bytes": _sums_of_bytes.BYTES, "nibbles": _sums_of_bytes.NIBBLES}
_DTYPES = {"bytes": "uint32", "nibbles": "uint8"}


def _type_of(
    call: relax.Call,
    attributes: BitserialConv2dBlocked,
    data: list[Dim],
    weight: list[Dim],
    base: list[Dim],
    row_class: list[Dim],
    col_class: list[Dim],
) -> relax.TensorType:
    dtype, groups, bits = str(call.args[1].ty.dtype.dtype), attributes.groups, attributes.bits
    counts = attributes.counts
    if counts != "pieces" and dtype != _DTYPES[counts]:
        fail(call, f"counts={counts!r} is for a weight of dtype {_DTYPES[counts]}; got {dtype}")
    blocks, kernel_h, kernel_w, words, lanes = map(known, weight)
    if counts == "nibbles":
        words = -(-words * NIBBLE // WORD)
    elif dtype != "uint32":
        words, kernel_w = _words(call, bits, dtype, kernel_h, kernel_w, words), words
    out = blocks * lanes
    expect_divisible(call, "output channels", out, groups)
    expect_dim(call, ("data", 3), data[3], bits * groups * words, "bits * groups * weight words")
    expect_dim(call, ("base", 2), base[2], out, "output channels of weight")
    expect_int32(call, bits, words, kernel_h * kernel_w)
    height, width = output_image(
        call,
        data[1:3],
        (kernel_h, kernel_w),
        strides=attributes.strides,
        dilation=attributes.dilation,
    )
    expect_dim(call, ("row_class", 0), row_class[0], height, "output height")
    expect_dim(call, ("col_class", 0), col_class[0], width, "output width")
    return relax.TensorType([data[0], height, width, out], "int32")


def _words(
    call: relax.Call, bits: int, dtype: str, kernel_h: int, count: int, kernel_w: int
) -> int:
    """Words of a tap whose weight has `count` pieces, checked."""
    if not pieces_fit(dtype, count):
        fail(
            call,
            f"weight has {count} pieces of dtype {dtype} a tap; pass those of whole words, or less "
            "than one word has",
        )
    if dtype == "uint16" and not pairs_fit(kernel_h, kernel_w, count, bits):
        fail(call, "weight of dtype uint16 takes 1 bit and sums below 65536; pass uint8 or uint32")
    return -(-count * PIECE_BITS[dtype] // 32)


def te_bitserial_conv2d_blocked(
    data: te.Tensor,
    weight: te.Tensor,
    base: te.Tensor,
    row_class: te.Tensor,
    col_class: te.Tensor,
    attributes: BitserialConv2dBlocked,
) -> te.Tensor:
    """TE of the operator: reduce block "bconv" (popsum), then element-wise block "bconv_out"."""
    strides, dilation = attributes.strides, attributes.dilation
    groups, bits, alpha = attributes.groups, attributes.bits, attributes.alpha
    blocks, kernel_h, kernel_w, words, lanes = map(known, weight.shape)
    out = blocks * lanes
    ky, kx = reduce_axis(kernel_h, "ky"), reduce_axis(kernel_w, "kx")
    plane, word = reduce_axis(bits, "plane"), reduce_axis(words, "word")
    axes = [ky, kx, word] if bits == 1 else [ky, kx, plane, word]

    def differ(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        group = 0 if groups == 1 else o // (out // groups)
        first = group if bits == 1 else plane * groups + group
        theirs = data(
            n,
            y * strides[0] + ky * dilation[0],
            x * strides[1] + kx * dilation[1],
            first * words + word,
        )
        count = tirx.popcount(theirs ^ weight(o // lanes, ky, kx, word, o % lanes)).astype("int32")
        return te.sum(count if bits == 1 else count << plane.var.astype("int32"), axis=axes)

    image = [row_class.shape[0], col_class.shape[0]]
    shape = [data.shape[0], *image, extent(out)]
    how: Any = {"strides": strides, "dilation": dilation, "groups": groups, "bits": bits}
    if attributes.counts in _FORMS:
        popsum = _sums_of_bytes.te_popsum(data, weight, image, _FORMS[attributes.counts], **how)
    elif str(weight.dtype) in PIECE_BITS:
        popsum = _narrow_sums.te_popsum(data, weight, image, **how)
    else:
        popsum = te.compute(shape, differ, name="bconv", attrs={"schedule_rule": "insta_bconv"})

    def dot(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        return base(row_class(y), col_class(x), o) - alpha * popsum(n, y, x, o).astype("int32")

    return te.compute(shape, dot, name="bconv_out")


bitserial_conv2d_blocked = Operator(
    "bitserial_conv2d_blocked",
    [
        Argument("data", "uint32", 4, known=[3]),
        Argument("weight", ("uint32", *PIECE_BITS), 5, known=range(5)),
        Argument("base", "int32", 3, known=range(3)),
        Argument("row_class", "int32", 1),
        Argument("col_class", "int32", 1),
    ],
    BitserialConv2dBlocked,
    _type_of,
    te_bitserial_conv2d_blocked,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
