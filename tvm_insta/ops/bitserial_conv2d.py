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

from collections.abc import Sequence

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    WORD,
    choice,
    dims,
    expect_dim,
    expect_divisible,
    expect_int32,
    expect_known,
    extent,
    integer,
    integers,
    known,
    make_call,
    output_image,
    primfunc,
    reduce_axis,
    register,
    words_for,
)

ENCODINGS = ("bipolar", "unsigned")


def bitserial_conv2d(
    data: relax.Expr,
    weight: relax.Expr,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    in_channels: int,
    bits: int = 1,
    encoding: str = "bipolar",
    layers: Sequence[str] = (),
) -> relax.Call:
    """Build the call; shapes and meaning are in the module's docstring.

    Args:
        data: [N, H, W, bits * groups * Cwg] uint32, not padded.
        weight: [O, KH, KW, Cwg] uint32.
        strides: vertical, horizontal.
        padding: top, left, bottom, right, in pixels of value 0.
        dilation: vertical, horizontal.
        groups: convolution groups; O and in_channels are multiples of it.
        in_channels: C, the input channels of all groups together.
        bits: bits of an activation, 1..4.
        encoding: "bipolar" or "unsigned".
        layers: names of the layers that are computed.

    Returns:
        A call of type [N, OH, OW, O] int32.
    """
    return make_call(
        "bitserial_conv2d",
        [data, weight],
        strides=list(strides),
        padding=list(padding),
        dilation=list(dilation),
        groups=groups,
        in_channels=in_channels,
        bits=bits,
        encoding=encoding,
        layers=list(layers),
    )


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    data = dims(call, 0, "data", (4,), "uint32")
    weight = dims(call, 1, "weight", (4,), "uint32")
    strides = integers(call, "strides", 2, 1)
    padding = integers(call, "padding", 4, 0)
    dilation = integers(call, "dilation", 2, 1)
    groups = integer(call, "groups", 1)
    channels = integer(call, "in_channels", 1)
    bits = integer(call, "bits", 1, 4)
    choice(call, "encoding", ENCODINGS)
    expect_known(call, "data", data, (3,))
    expect_known(call, "weight", weight, (0, 1, 2, 3))
    out, kernel_h, kernel_w, _ = weight
    expect_divisible(call, "input channels", channels, groups)
    expect_divisible(call, "output channels", out, groups)
    words = words_for(channels // groups)
    expect_dim(call, ("weight", 3), weight[3], words, "words of one group's input channels")
    expect_dim(call, ("data", 3), data[3], bits * groups * words, "bits * groups * weight words")
    expect_int32(call, bits, words, kernel_h * kernel_w)
    image = output_image(
        call,
        data[1:3],
        weight[1:3],
        strides=strides,
        padding=padding,
        dilation=dilation,
    )
    return relax.TensorType([data[0], *image, out], "int32")


def te_bitserial_conv2d(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    in_channels: int,
    bits: int,
    encoding: str,
) -> te.Tensor:
    """TE of the operator: one reduce block "bitserial_conv2d", written for meaning, not speed."""
    batch, height, width, _ = data.shape
    out, kernel_h, kernel_w, words = map(known, weight.shape)
    top, left, bottom, right = padding
    per_group = in_channels // groups
    ky, kx = reduce_axis(kernel_h, "ky"), reduce_axis(kernel_w, "kx")
    plane, word = reduce_axis(bits, "plane"), reduce_axis(words, "word")

    def tap(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        row = y * strides[0] + ky * dilation[0] - top
        column = x * strides[1] + kx * dilation[1] - left
        inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
        group = 0 if groups == 1 else o // (out // groups)
        mine = weight(o, ky, kx, word)
        other = data(n, row, column, (plane * groups + group) * words + word)
        differ = tirx.popcount(other ^ mine).astype("int32")
        if encoding == "bipolar":
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


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def function(data: te.Tensor, weight: te.Tensor) -> te.Tensor:
        return te_bitserial_conv2d(
            data,
            weight,
            strides=integers(call, "strides", 2, 1),
            padding=integers(call, "padding", 4, 0),
            dilation=integers(call, "dilation", 2, 1),
            groups=integer(call, "groups", 1),
            in_channels=integer(call, "in_channels", 1),
            bits=integer(call, "bits", 1, 4),
            encoding=choice(call, "encoding", ENCODINGS),
        )

    return primfunc(bb, "bitserial_conv2d", OUT_ELEMENTWISE_FUSABLE, function, call.args)


register(bitserial_conv2d, _infer, _legalise)
