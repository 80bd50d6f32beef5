"""`insta.conv2d_narrow`: a float convolution computed in bfloat16 or in 8-bit integers.

data [N, H, W, C] float32; weight [O / L, KH, 1, U, L] uint32, each with G narrow numbers, the first
in the lowest bits: G = 2 bfloat16 or G = 4 int8. The taps of one kernel row lie side by side in a
row of the image, KW * C numbers, and are cut into U = ceil(KW * C / G) units; the last is filled up
with zeros. Result [N, OH, OW, O]:

    kind "bf16": float32, the sum over ky, unit of the products of bf16(data) and weight
    kind "int8": int32, the sum of code * weight, code = zero + clip(round(data * scale), -127, 127)

bf16 rounds to nearest, ties to even. The code of 0 is 128 where codes are unsigned bytes, as x86
multiplies them, and 0 where they are signed ones, as Arm does. A pixel of the padding has the code
of 0: so what the 128 adds is the same everywhere, 128 times the sum of the weights of an output
channel, and whoever calls subtracts it. Then both give the same integers. They are exact;
KH * KW * C * (zero + 127) * 127 has to stay below 2**31.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax, te, tirx

from . import _dot
from ._codes import te_codes, type_of_sums
from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    Dim,
    expect_dim,
    extent,
    known,
    reduce_axis,
)
from ._declare import Argument, Operator, choice, integer, number
from ._window import Window
from .packing import NUMBERS, ZERO_CODE


@dataclass(frozen=True, kw_only=True)
class Conv2dNarrow(Window):
    """See the module's docstring.

    Attributes:
        kind: "bf16" or "int8".
        kernel_width: KW.
        scale: steps of a code per unit of data, for kind "int8".
        zero: the code of 0, for kind "int8": 128 (codes are uint8) or 0 (codes are int8).
    """

    kind: str = choice(tuple(NUMBERS))
    kernel_width: int = integer(low=1)
    scale: float = number(above=0, default=1.0)
    zero: int = integer(low=0, default=ZERO_CODE)


def _type_of(
    call: relax.Call, attributes: Conv2dNarrow, data: list[Dim], weight: list[Dim]
) -> relax.TensorType:
    kind, width = attributes.kind, attributes.kernel_width
    blocks, height, channels = known(weight[0]), known(weight[1]), known(data[3])
    units = -(-width * channels // NUMBERS[kind])
    expect_dim(call, ("weight", 2), weight[2], 1, "a kernel row is one run of units")
    expect_dim(call, ("weight", 3), weight[3], units, "units of a kernel row")
    return type_of_sums(call, attributes, data, (height, width), blocks * known(weight[4]))


def te_conv2d_narrow(
    data: te.Tensor,
    weight: te.Tensor,
    attributes: Conv2dNarrow,
) -> te.Tensor:
    """TE of the operator: block "narrow_pad" (see `_codes`), then "fconv"."""
    kind, zero, strides = attributes.kind, attributes.zero, attributes.strides
    kernel_width = attributes.kernel_width
    batch, height, image_width, channels = data.shape
    width, depth = known(image_width), known(channels)
    blocks, kernel_h, _, units, lanes = map(known, weight.shape)
    top, left, bottom, right = attributes.padding
    numbers = NUMBERS[kind]
    padded_h, padded_w = height + top + bottom, width + left + right
    out_h = (padded_h - kernel_h) // strides[0] + 1
    out_w = (padded_w - kernel_width) // strides[1] + 1
    row = max(padded_w * depth, (out_w - 1) * strides[1] * depth + units * numbers)
    codes = te_codes(data, attributes.padding, row, kind, attributes.scale, zero)
    ky, unit = reduce_axis(kernel_h, "ky"), reduce_axis(units, "unit")

    def product(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        first = x * (strides[1] * depth) + unit * numbers
        theirs = tirx.const(0, "uint32")
        for at in range(numbers):
            number = codes(n, y * strides[0] + ky, first + at).astype("uint32")
            theirs = theirs | (number << tirx.const(32 // numbers * at, "uint32"))
        mine = weight(o // lanes, ky, 0, unit, o % lanes)
        int8 = _dot.INT8 if zero else _dot.SIGNED
        name = _dot.BF16 if kind == "bf16" else int8
        return te.sum(_dot.product(name, theirs, mine), axis=[ky, unit])

    attrs = {"schedule_rule": "insta_fconv"}
    if kind == "bf16":
        attrs["pragma_import_llvm"] = _dot.llvm_functions()
    shape = [batch, out_h, extent(out_w), extent(blocks * lanes)]
    return te.compute(shape, product, name="fconv", attrs=attrs)


conv2d_narrow = Operator(
    "conv2d_narrow",
    [Argument("data", "float32", 4, known=[2, 3]), Argument("weight", "uint32", 5, known=range(5))],
    Conv2dNarrow,
    _type_of,
    te_conv2d_narrow,
    pattern=OUT_ELEMENTWISE_FUSABLE,
    finish=_dot.sum_products,
)
