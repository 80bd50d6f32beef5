"""`insta.conv2d_tiles`: a float convolution in bfloat16 or in 8-bit integers, for tiles (AMX).

data [N, H, W, C] float32, which becomes codes as for `conv2d_narrow`; weight
[O / 16, KH, U, 16, 64] int8 or [O / 16, KH, U, 16, 32] uint16, which are bfloat16. The taps of one
kernel row lie side by side in a row of the image, KW * C numbers, and are cut into
U = ceil(KW * C / G) units of 64 bytes, a row of a tile: G = 64 int8 or G = 32 bfloat16. Number k of
unit u meets number L (o % 16) + k % L of those at weight[o // 16, ky, u, k // L], L = 4 int8 or
2 bfloat16: the order in which the instructions take their second operand. Behind the last tap
weights are 0. Result [N, OH, OW, O]:

    kind "int8": int32, the sum of code * weight: the integers of `conv2d_narrow`
    kind "bf16": float32, in the order of TDPBF16PS

`TDPBF16PS` (Intel SDM, volume 2) adds up a unit in two chains, and then adds both to the sum:

    sum = 0
    for ky, u:
      even = fma(a[30], b[30], .. fma(a[2], b[2], fma(a[0], b[0], 0)))
      odd = fma(a[31], b[31], .. fma(a[3], b[3], fma(a[1], b[1], 0)))
      sum = sum + (even + odd)

where every operation rounds to nearest, ties to even, and takes subnormal numbers for 0, and makes
0 of subnormal results. `reference.conv2d_tiles` does that bit for bit. `conv2d_narrow` adds up in
another order; `validate` judges both by how far the rounding of the operands moves the layer, which
is far more than an order of sums does. Without tiles the operator has the same order, and subnormal
numbers as the target has them.

Where KW * C is no multiple of G, a unit goes past the window, to numbers that meet a weight of 0.
An infinity or a NaN among these, up to 31 bfloat16 behind the window, makes the sum a NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax, te, tirx

from ._codes import te_codes, type_of_sums
from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    Dim,
    expect_dim,
    extent,
    fail,
    known,
    reduce_axis,
)
from ._declare import Argument, Operator, choice, integer, number
from ._window import Window
from .tile_numbers import CHANNELS, TILE_UNITS

RULE = "insta_fconv_tiles"


@dataclass(frozen=True, kw_only=True)
class Conv2dTiles(Window):
    """See the module's docstring.

    Attributes:
        kind: "bf16" or "int8".
        kernel_width: KW.
        scale: steps of a code per unit of data, for kind "int8".
        zero: the code of 0, for kind "int8": 128 (codes are uint8, multiplied by TDPBUSD) or 0
            (codes are int8, TDPBSSD).
    """

    kind: str = choice(tuple(TILE_UNITS))
    kernel_width: int = integer(low=1)
    scale: float = number(above=0, default=1.0)
    zero: int = integer(low=0, default=0)


def _type_of(
    call: relax.Call, attributes: Conv2dTiles, data: list[Dim], weight: list[Dim]
) -> relax.TensorType:
    kind, width = attributes.kind, attributes.kernel_width
    blocks, height, channels = known(weight[0]), known(weight[1]), known(data[3])
    unit = TILE_UNITS[kind]
    got = str(call.args[1].ty.dtype.dtype)
    if got != unit.dtype:
        fail(call, f"kind={kind!r} is for a weight of dtype {unit.dtype}; got {got}")
    units = -(-width * channels // unit.numbers)
    expect_dim(call, ("weight", 2), weight[2], units, "units of a kernel row")
    expect_dim(call, ("weight", 3), weight[3], CHANNELS, "rows of a tile")
    expect_dim(call, ("weight", 4), weight[4], unit.numbers, "numbers of a row")
    return type_of_sums(call, attributes, data, (height, width), blocks * CHANNELS)


def te_conv2d_tiles(data: te.Tensor, weight: te.Tensor, attributes: Conv2dTiles) -> te.Tensor:
    """TE of the operator: block "narrow_pad" (codes of the padded rows), then "fconv_tiles"."""
    kind, zero, strides = attributes.kind, attributes.zero, attributes.strides
    kernel_width = attributes.kernel_width
    batch, height, image_width, channels = data.shape
    width, depth = known(image_width), known(channels)
    blocks, kernel_h, units, _, numbers = map(known, weight.shape)
    top, left, bottom, right = attributes.padding
    padded_h, padded_w = height + top + bottom, width + left + right
    row, run = padded_w * depth, kernel_width * depth
    out_h = (padded_h - kernel_h) // strides[0] + 1
    out_w = (padded_w - kernel_width) // strides[1] + 1
    codes = te_codes(data, attributes.padding, row, kind, attributes.scale, zero)
    lane = TILE_UNITS[kind].lane
    ky, unit = reduce_axis(kernel_h, "ky"), reduce_axis(units, "unit")

    def product(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        first = x * (strides[1] * depth)

        def theirs(k: tirx.Expr | int) -> tirx.Expr:
            return codes(n, y * strides[0] + ky, first + unit * numbers + k)

        def mine(k: tirx.Expr | int) -> tirx.Expr:
            return weight(o // CHANNELS, ky, unit, k // lane, o % CHANNELS * lane + k % lane)

        def counted(k: tirx.Expr | int, value: tirx.Expr) -> tirx.Expr:
            nothing = tirx.const(0, str(value.ty.dtype))
            return tirx.if_then_else(unit * numbers + k < run, value, nothing)

        if kind == "bf16":
            even, odd = (
                _chain([counted(k, _wide(theirs(k)) * _wide(mine(k))) for k in each])
                for each in (range(0, numbers, 2), range(1, numbers, 2))
            )
            return te.sum(even + odd, axis=[ky, unit])
        k = reduce_axis(numbers, "k")
        code = theirs(k) if zero else theirs(k).astype("int8")
        value = code.astype("int32") * mine(k).astype("int32")
        return te.sum(counted(k, value), axis=[ky, unit, k])

    attrs = {
        "schedule_rule": RULE,
        "kernel_width": kernel_width,
        "channels": depth,
        "strides": list(strides),
        "padding": list(attributes.padding),
        "zero": zero,
    }
    shape = [batch, out_h, extent(out_w), extent(blocks * CHANNELS)]
    return te.compute(shape, product, name="fconv_tiles", attrs=attrs)


def _wide(bits: tirx.Expr) -> tirx.Expr:
    """A bfloat16 number as float32."""
    return tirx.reinterpret("float32", bits.astype("uint32") << tirx.const(16, "uint32"))


def _chain(products: Sequence[tirx.Expr]) -> tirx.Expr:
    """Products added one after the other; each is exact in float32, so that is a chain of fma."""
    total: tirx.Expr = tirx.const(0.0, "float32")
    for product in products:
        total = total + product
    return total


conv2d_tiles = Operator(
    "conv2d_tiles",
    [
        Argument("data", "float32", 4, known=[1, 2, 3]),
        Argument("weight", ("int8", "uint16"), 5, known=range(5)),
    ],
    Conv2dTiles,
    _type_of,
    te_conv2d_tiles,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
