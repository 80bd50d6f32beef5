"""`insta.bitserial_conv2d`: multi-bit activations by +-1 weights; the definition of the operator.

This is the target-independent form: the compiler lowers it to `bitserial_conv2d_blocked`, and
whatever that computes has to equal this.

data [N, H, W, bits * groups * Cwg] uint32 in the layout of `threshold_pack` without padding,
Cwg = ceil((C / groups) / 32); weight [O, KH, KW, Cwg] uint32, bit 1 = +1, bit 0 = -1.
Result [N, OH, OW, O] int32, the exact dot product of activation values and weights:

    value = sum_p 2**p * (+1 if bit_p else -1)   encoding "bipolar"
    value = sum_p 2**p * bit_p = the code        encoding "unsigned"

Padding is in the value domain: a tap outside the image contributes 0, which a padded word of
bipolar bits cannot express. Here every tap is tested instead; the words of one tap give, over n
channels in a word,

    bipolar:   2**p * (n - 2 * popcount(data ^ weight))            equal bits count +1, others -1
    unsigned:  2**p * (popcount(weight) - popcount(data ^ weight)) from x w = 2 (x & w) - x
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    WORD,
    Dim,
    expect_dim,
    expect_divisible,
    expect_int32,
    extent,
    known,
    output_image,
    reduce_axis,
    words_for,
)
from ._declare import Argument, Operator, choice, integer
from ._window import GroupedWindow

ENCODINGS = ("bipolar", "unsigned")


@dataclass(frozen=True, kw_only=True)
class BitserialConv2d(GroupedWindow):
    """See the module's docstring.

    Attributes:
        in_channels: C, the input channels of all groups together.
        bits: bits of an activation.
        encoding: "bipolar" or "unsigned".
    """

    in_channels: int = integer(low=1)
    bits: int = integer(low=1, high=4, default=1)
    encoding: str = choice(ENCODINGS, default="bipolar")


def _type_of(
    call: relax.Call, attributes: BitserialConv2d, data: list[Dim], weight: list[Dim]
) -> relax.TensorType:
    out, kernel_h, kernel_w, _ = map(known, weight)
    channels, groups, bits = attributes.in_channels, attributes.groups, attributes.bits
    expect_divisible(call, "input channels", channels, groups)
    expect_divisible(call, "output channels", out, groups)
    words = words_for(channels // groups)
    expect_dim(call, ("weight", 3), weight[3], words, "words of one group's input channels")
    expect_dim(call, ("data", 3), data[3], bits * groups * words, "bits * groups * weight words")
    expect_int32(call, bits, words, kernel_h * kernel_w)
    image = output_image(
        call,
        data[1:3],
        (kernel_h, kernel_w),
        strides=attributes.strides,
        padding=attributes.padding,
        dilation=attributes.dilation,
    )
    return relax.TensorType([data[0], *image, out], "int32")


def te_bitserial_conv2d(
    data: te.Tensor,
    weight: te.Tensor,
    attributes: BitserialConv2d,
) -> te.Tensor:
    """TE of the operator: one reduce block "bitserial_conv2d", written for meaning, not speed."""
    batch, height, width, _ = data.shape
    out, kernel_h, kernel_w, words = map(known, weight.shape)
    strides, dilation, groups = attributes.strides, attributes.dilation, attributes.groups
    top, left, bottom, right = attributes.padding
    per_group = attributes.in_channels // groups
    ky, kx = reduce_axis(kernel_h, "ky"), reduce_axis(kernel_w, "kx")
    plane, word = reduce_axis(attributes.bits, "plane"), reduce_axis(words, "word")

    def tap(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        row = y * strides[0] + ky * dilation[0] - top
        column = x * strides[1] + kx * dilation[1] - left
        inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
        group = 0 if groups == 1 else o // (out // groups)
        mine = weight(o, ky, kx, word)
        other = data(n, row, column, (plane * groups + group) * words + word)
        differ = tirx.popcount(other ^ mine).astype("int32")
        if attributes.encoding == "bipolar":
            held = tirx.min(per_group - word.var * WORD, WORD).astype("int32")
            value = held - 2 * differ
        else:
            value = tirx.popcount(mine).astype("int32") - differ
        value = value << plane.var.astype("int32")
        zero = tirx.const(0, "int32")
        return te.sum(tirx.if_then_else(inside, value, zero), axis=[ky, kx, plane, word])

    out_h = (height + (top + bottom - dilation[0] * (kernel_h - 1) - 1)) // strides[0] + 1
    out_w = (width + (left + right - dilation[1] * (kernel_w - 1) - 1)) // strides[1] + 1
    return te.compute([batch, out_h, out_w, extent(out)], tap, name="bitserial_conv2d")


bitserial_conv2d = Operator(
    "bitserial_conv2d",
    [Argument("data", "uint32", 4, known=[3]), Argument("weight", "uint32", 4, known=range(4))],
    BitserialConv2d,
    _type_of,
    te_bitserial_conv2d,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
