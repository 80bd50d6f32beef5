"""`insta.bitserial_conv2d_signs`: a binary convolution as a product of +-1 bytes, for tiles (AMX).

data [N, H, W, Cw] uint32, packed by `threshold_pack` without padding, Cw = ceil(C / 32), or
[N, Hp + S, Wp, 32 Cw] int8, written by `threshold_signs`; weight [O / 16, KH, U, 16, 2] uint32, bit
1 = +1, or [O / 16, KH, U, 16, 64] int8, +1 and -1. Result [N, OH, OW, O] int32:

    out = sum over the taps inside the image, and their C channels, of data * weight, both +-1

This equals `bitserial_conv2d` with 1 bipolar bit, integer by integer. Every bit of the data becomes
a byte, +1 or -1, in an image [Hp, Wp, 32 Cw] with a border of 0: a padded tap adds nothing, and no
border table is needed. Data of bytes is that image, and S rows behind it that no sum needs: tiles
have 16 pixels, and may load what lies behind the last one (`spare_rows`).

The taps of one kernel row lie side by side in a row of that image, KW * 32 Cw bytes, and are cut
into U = ceil(KW * 32 Cw / 64) units of 64 bytes, a row of a tile. Byte k of unit u meets bit, or
byte, 4 (o % 16) + k % 4 of the 64 at weight[o // 16, ky, u, k // 4], where word 0 has the lower 32
bits: the order in which TDPBSSD takes its second operand. What lies behind the last channel of a
tap, or behind the last tap, has weight 0; C is a multiple of 4, so such bytes fill whole rows.

Bits have to be expanded before tiles can load them; bytes take eight times the memory.
No sum leaves int32: it is at most KH * KW * C, which type inference checks.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    WORD,
    Dim,
    expect_dim,
    expect_int32,
    extent,
    fail,
    known,
    output_image,
    reduce_axis,
    words_for,
)
from ._declare import Argument, Operator, choice, integer
from ._window import Window

CHANNELS = 16
"""Output channels of a tile."""

UNIT = 64
"""Bytes of a row of a tile."""

RULE = "insta_bconv_signs"

_WEIGHTS = {"bits": ("uint32", 2, "words of 64 bits"), "bytes": ("int8", UNIT, "bytes of a row")}
_IMAGES = {"bits": "uint32", "bytes": "int8"}


def spare_rows(width: int, kernel_width: int, stride: int, channels: int) -> int:
    """Rows behind an image of bytes that tiles may load from, though no sum needs them.

    A tile has 16 pixels and starts at the first of a row at the latest; the last of the units of a
    kernel row goes on behind its last tap.

    Args:
        width: of the padded image.
        kernel_width: KW.
        stride: horizontal.
        channels: C.
    """
    pixel = words_for(channels) * WORD
    outputs, run = (width - kernel_width) // stride + 1, kernel_width * pixel
    end = max(outputs, CHANNELS) - 1
    last = end * stride * pixel + -(-run // UNIT) * UNIT
    row = width * pixel
    return max(-(-last // row) - 1, 0)


@dataclass(frozen=True, kw_only=True)
class BitserialConv2dSigns(Window):
    """See the module's docstring.

    Attributes:
        in_channels: C, a multiple of 4.
        kernel_width: KW.
        weights: what the weight holds, "bits" or "bytes"; the result is the same.
        image: what the data holds, "bits" or "bytes"; the result is the same. Bytes are padded
            already, `padding` is 0.
        spare: S, for bytes; at least `spare_rows`.
    """

    in_channels: int = integer(low=1)
    kernel_width: int = integer(low=1)
    weights: str = choice(tuple(_WEIGHTS), default="bits")
    image: str = choice(tuple(_IMAGES), default="bits")
    spare: int = integer(low=0, default=0)


def _type_of(
    call: relax.Call, attributes: BitserialConv2dSigns, data: list[Dim], weight: list[Dim]
) -> relax.TensorType:
    channels, width = attributes.in_channels, attributes.kernel_width
    blocks, height = known(weight[0]), known(weight[1])
    if channels % 4:
        fail(call, f"in_channels is {channels}; pass a multiple of 4")
    dtype, length, meaning = _WEIGHTS[attributes.weights]
    got = str(call.args[1].ty.dtype.dtype)
    if got != dtype:
        fail(call, f"weights={attributes.weights!r} is for a weight of dtype {dtype}; got {got}")
    words = words_for(channels)
    if attributes.image == "bits":
        expect_dim(call, ("data", 3), data[3], words, "words of in_channels")
    else:
        expect_dim(call, ("data", 3), data[3], words * WORD, "bytes of a pixel of in_channels")
    _expect_image(call, attributes, known(data[2]))
    units = -(-width * words * WORD // UNIT)
    expect_dim(call, ("weight", 2), weight[2], units, "units of a kernel row")
    expect_dim(call, ("weight", 3), weight[3], UNIT // 4, "rows of a tile")
    expect_dim(call, ("weight", 4), weight[4], length, meaning)
    expect_int32(call, 1, words, height * width)
    image = output_image(
        call,
        [known(data[1]) - attributes.spare, data[2]],
        (height, width),
        strides=attributes.strides,
        padding=attributes.padding,
        dilation=[1, 1],
    )
    return relax.TensorType([data[0], *image, blocks * CHANNELS], "int32")


def _expect_image(call: relax.Call, attributes: BitserialConv2dSigns, width: int) -> None:
    """Check what belongs to the form of the data."""
    image, spare, padding = attributes.image, attributes.spare, attributes.padding
    got = str(call.args[0].ty.dtype.dtype)
    if got != _IMAGES[image]:
        fail(call, f"image={image!r} is for data of dtype {_IMAGES[image]}; got {got}")
    if image == "bits":
        if spare:
            fail(call, f"spare is {spare}, but data of bits has no rows that nobody needs; pass 0")
        return
    if any(padding):
        fail(call, f"padding is {list(padding)}, but bytes are padded already; pass [0, 0, 0, 0]")
    if width < attributes.kernel_width:
        return  # the message for the output image says so
    args = width, attributes.kernel_width, attributes.strides[1], attributes.in_channels
    if spare < spare_rows(*args):
        fail(call, f"spare is {spare}; pass at least {spare_rows(*args)} rows for such tiles")


def te_bitserial_conv2d_signs(
    data: te.Tensor,
    weight: te.Tensor,
    attributes: BitserialConv2dSigns,
) -> te.Tensor:
    """TE of the operator: reduce block "bconv", behind "bconv_signs" (bytes of bits) if need be."""
    in_channels, kernel_width = attributes.in_channels, attributes.kernel_width
    strides, padding = attributes.strides, attributes.padding
    batch, rows, columns, depth = data.shape
    height, width = known(rows) - attributes.spare, known(columns)
    blocks, kernel_h, units, _, _ = map(known, weight.shape)
    top, left, bottom, right = padding
    padded = [height + top + bottom, width + left + right]
    as_bytes = attributes.image == "bytes"
    depth = known(depth) if as_bytes else known(depth) * WORD
    run = kernel_width * depth
    image = [
        (padded[0] - kernel_h) // strides[0] + 1,
        (padded[1] - kernel_width) // strides[1] + 1,
    ]

    def sign(word: tirx.Expr, bit: tirx.Expr) -> tirx.Expr:
        is_one = (word >> bit.astype("uint32")) & tirx.const(1, "uint32")
        return is_one.astype("int8") * tirx.const(2, "int8") - tirx.const(1, "int8")

    def byte(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        inside = tirx.all(y >= top, y < top + height, x >= left, x < left + width)
        value = sign(data(n, y - top, x - left, c // WORD), c % WORD)
        return tirx.if_then_else(inside, value, tirx.const(0, "int8"))

    signs = data
    if not as_bytes:
        signs = te.compute([batch, *padded, extent(depth)], byte, name="bconv_signs")
    ky, unit, k = (
        reduce_axis(size, name)
        for size, name in ((kernel_h, "ky"), (units, "unit"), (UNIT, "byte"))
    )
    at = unit * UNIT + k
    counts = tirx.all(at < run, at % depth < in_channels)

    def product(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        theirs = signs(n, y * strides[0] + ky, x * strides[1] + at // depth, at % depth)
        place = o % CHANNELS * 4 + k % 4
        row = o // CHANNELS, ky, unit, k // 4
        if attributes.weights == "bytes":
            mine = weight(*row, place)
        else:
            mine = sign(weight(*row, place // WORD), place % WORD)
        value = theirs.astype("int32") * mine.astype("int32")
        zero = tirx.const(0, "int32")
        return te.sum(tirx.if_then_else(counts, value, zero), axis=[ky, unit, k])

    attrs = {
        "schedule_rule": RULE,
        "in_channels": in_channels,
        "kernel_width": kernel_width,
        "strides": list(strides),
        "padding": list(padding),
        "spare": attributes.spare,
    }
    shape = [batch, *map(extent, image), extent(blocks * CHANNELS)]
    return te.compute(shape, product, name="bconv", attrs=attrs)


bitserial_conv2d_signs = Operator(
    "bitserial_conv2d_signs",
    [
        Argument("data", ("uint32", "int8"), 4, known=[1, 2, 3]),
        Argument("weight", ("uint32", "int8"), 5, known=range(5)),
    ],
    BitserialConv2dSigns,
    _type_of,
    te_bitserial_conv2d_signs,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
