"""`insta.bitserial_conv2d_runs`: `bitserial_conv2d` as products of matrices of bits (tensor cores).

data [N, Hp, Wp, bits * Cw] uint32, already padded with 0 words; weight [B, KH, S, 8, 4] uint32 with
B = ceil(O / 8) and S = ceil(KW * Cw / 4); base [RC, CC, O] int32; row_class [OH] int32, col_class
[OW] int32. Result [N, OH, OW, O] int32:

    both_p[n, y, x, o] = sum over ky, and words q of a run, of popcount(data & weight) for plane p
    ones_p[n, y, x] = sum over the same words of popcount(data)
    out = base[row_class[y], col_class[x], o] + alpha * sum_p 2**p * (2 * both_p - ones_p)

A run is the words of a plane for the taps of one kernel row, side by side: word q is that of tap
q // Cw. weight[o // 8, ky, q // 4, o % 8, q % 4] meets it, so that four words of eight output
channels, the smallest piece that a tensor core takes of a weight, lie together. Words behind a run
and output channels behind O have weight 0.

Why this is exact. popcount(a ^ w) = popcount(a) + popcount(w) - 2 popcount(a & w). Put into
`bitserial_conv2d_blocked` with its base b and the ones |w| of all words of an output channel's
weight, it gives the above, with base = b - alpha * (2**bits - 1) * |w|. AND and not XOR, since that
is what tensor cores count on cards from sm_80 to sm_90 in one instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    Dim,
    expect_dim,
    expect_divisible,
    expect_int32,
    extent,
    known,
    output_image,
    reduce_axis,
)
from ._declare import Argument, LayerAttributes, Operator, integer, integers

CHANNELS = 8
"""Output channels that lie together in a weight."""

STEP = 4
"""Words of a run that lie together in a weight."""

RULE = "insta_bconv_runs"


@dataclass(frozen=True, kw_only=True)
class BitserialConv2dRuns(LayerAttributes):
    """See the module's docstring.

    Attributes:
        kernel_width: KW.
        strides: vertical, horizontal.
        bits: bits of an activation.
        alpha: 2 for bipolar activations, 1 for unsigned ones.
    """

    kernel_width: int = integer(low=1)
    strides: Sequence[int] = integers(2, low=1, default=(1, 1))
    bits: int = integer(low=1, high=4, default=1)
    alpha: int = integer(low=1, high=2, default=2)


def _type_of(
    call: relax.Call,
    attributes: BitserialConv2dRuns,
    data: list[Dim],
    weight: list[Dim],
    base: list[Dim],
    row_class: list[Dim],
    col_class: list[Dim],
) -> relax.TensorType:
    bits, width = attributes.bits, attributes.kernel_width
    blocks, kernel_h, steps, channels, step = map(known, weight)
    expect_divisible(call, "words of data", known(data[3]), bits)
    words = known(data[3]) // bits
    out = known(base[2])
    expect_dim(call, ("weight", 0), blocks, -(-out // CHANNELS), "output channels / 8")
    expect_dim(call, ("weight", 2), steps, -(-width * words // STEP), "words of a run / 4")
    expect_dim(call, ("weight", 3), channels, CHANNELS, "output channels that lie together")
    expect_dim(call, ("weight", 4), step, STEP, "words that lie together")
    expect_int32(call, bits, steps * STEP, kernel_h)
    height, columns = output_image(
        call, data[1:3], (kernel_h, width), strides=attributes.strides, dilation=(1, 1)
    )
    expect_dim(call, ("row_class", 0), row_class[0], height, "output height")
    expect_dim(call, ("col_class", 0), col_class[0], columns, "output width")
    return relax.TensorType([data[0], height, columns, out], "int32")


def te_bitserial_conv2d_runs(
    data: te.Tensor,
    weight: te.Tensor,
    base: te.Tensor,
    row_class: te.Tensor,
    col_class: te.Tensor,
    attributes: BitserialConv2dRuns,
) -> te.Tensor:
    """TE of the operator: blocks "bconv_ones" and "bconv_both", then element-wise "bconv_out"."""
    bits, alpha, (down, right) = attributes.bits, attributes.alpha, attributes.strides
    _, kernel_h, steps, _, _ = map(known, weight.shape)
    words = known(data.shape[3]) // bits
    width, batch = attributes.kernel_width, data.shape[0]
    image = [row_class.shape[0], col_class.shape[0]]

    def scaled(count: tirx.Expr, plane: tirx.IterVar) -> tirx.Expr:
        number = count.astype("int32")
        return number if bits == 1 else number << plane.var.astype("int32")

    def planes(name: str) -> tirx.IterVar:
        return reduce_axis(bits, name)

    window = [reduce_axis(kernel_h, "ky"), reduce_axis(width, "kx")]
    of_ones = [planes("plane"), *window, reduce_axis(words, "word")]

    def ones(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr) -> tirx.Expr:
        plane, ky, kx, word = of_ones
        found = data(n, y * down + ky, x * right + kx, plane * words + word)
        return te.sum(scaled(tirx.popcount(found), plane), axis=of_ones)

    counted = te.compute([batch, *image], ones, name="bconv_ones")
    of_both = [planes("plane"), reduce_axis(kernel_h, "ky"), reduce_axis(steps * STEP, "q")]

    def both(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        plane, ky, q = of_both
        theirs = data(n, y * down + ky, x * right + q // words, plane * words + q % words)
        if steps * STEP > width * words:
            theirs = tirx.if_then_else(q < width * words, theirs, tirx.const(0, "uint32"))
        ours = weight(o // CHANNELS, ky, q // STEP, o % CHANNELS, q % STEP)
        return te.sum(scaled(tirx.popcount(theirs & ours), plane), axis=of_both)

    shape = [batch, *image, extent(known(base.shape[2]))]
    shared = te.compute(shape, both, name="bconv_both", attrs={"schedule_rule": RULE})

    def out(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        found = base(row_class(y), col_class(x), o)
        return found + alpha * (2 * shared(n, y, x, o) - counted(n, y, x))

    return te.compute(shape, out, name="bconv_out")


bitserial_conv2d_runs = Operator(
    "bitserial_conv2d_runs",
    [
        Argument("data", "uint32", 4, known=[3]),
        Argument("weight", "uint32", 5, known=range(5)),
        Argument("base", "int32", 3, known=range(3)),
        Argument("row_class", "int32", 1),
        Argument("col_class", "int32", 1),
    ],
    BitserialConv2dRuns,
    _type_of,
    te_bitserial_conv2d_runs,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
