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

from collections.abc import Sequence

from tvm import relax, te, tirx

from . import _dot
from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    choice,
    dims,
    expect_dim,
    expect_known,
    extent,
    fail,
    integer,
    integers,
    known,
    make_call,
    output_image,
    primfunc,
    reduce_axis,
    register,
)
from .packing import LARGEST_CODE, NUMBERS, ZERO_CODE


def conv2d_narrow(
    data: relax.Expr,
    weight: relax.Expr,
    *,
    kind: str,
    kernel_width: int,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    scale: float = 1.0,
    zero: int = ZERO_CODE,
    layers: Sequence[str] = (),
) -> relax.Call:
    """Build the call; shapes and meaning are in the module's docstring.

    Args:
        data: [N, H, W, C] float32.
        weight: [O / L, KH, 1, U, L] uint32.
        kind: "bf16" or "int8".
        kernel_width: KW.
        strides: vertical, horizontal.
        padding: top, left, bottom, right, in pixels of value 0.
        scale: steps of a code per unit of data, for kind "int8".
        zero: the code of 0, for kind "int8": 128 (codes are uint8) or 0 (codes are int8).
        layers: names of the layers that are computed.

    Returns:
        A call of type [N, OH, OW, O], float32 or int32.
    """
    return make_call(
        "conv2d_narrow",
        [data, weight],
        kind=kind,
        kernel_width=kernel_width,
        strides=list(strides),
        padding=list(padding),
        scale=float(scale),
        zero=zero,
        layers=list(layers),
    )


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    kind = choice(call, "kind", tuple(NUMBERS))
    data = dims(call, 0, "data", (4,), "float32")
    weight = dims(call, 1, "weight", (5,), "uint32")
    strides = integers(call, "strides", 2, 1)
    padding = integers(call, "padding", 4, 0)
    width = integer(call, "kernel_width", 1)
    expect_known(call, "data", data, (2, 3))
    expect_known(call, "weight", weight, range(5))
    if not _scale(call) > 0:
        fail(call, f"scale is {_scale(call)}; pass a number above 0")
    zero = _zero(call)
    if zero not in (0, ZERO_CODE):
        fail(call, f"zero is {zero}; pass {ZERO_CODE} for uint8 codes or 0 for int8 codes")
    units = -(-width * data[3] // NUMBERS[kind])
    expect_dim(call, ("weight", 2), weight[2], 1, "a kernel row is one run of units")
    expect_dim(call, ("weight", 3), weight[3], units, "units of a kernel row")
    most = (zero + LARGEST_CODE) * LARGEST_CODE  # the largest product of a code and a weight
    if kind == "int8" and weight[1] * width * data[3] * most >= 2**31:
        fail(call, f"{weight[1]} x {width} taps of {data[3]} channels may overflow int32; use bf16")
    image = output_image(
        call,
        data[1:3],
        (weight[1], width),
        strides=strides,
        padding=padding,
        dilation=[1, 1],
    )
    dtype = "float32" if kind == "bf16" else "int32"
    return relax.TensorType([data[0], *image, weight[0] * weight[4]], dtype)


def _scale(call: relax.Call) -> float:
    return float(call.attrs["scale"])


def _zero(call: relax.Call) -> int:
    return integer(call, "zero", 0)


def te_conv2d_narrow(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    kind: str,
    kernel_width: int,
    strides: Sequence[int],
    padding: Sequence[int],
    scale: float,
    zero: int,
) -> te.Tensor:
    """TE of the operator: block "narrow_pad" (codes of the padded rows), then "fconv"."""
    batch, height, image_width, channels = data.shape
    width, depth = known(image_width), known(channels)
    blocks, kernel_h, _, units, lanes = map(known, weight.shape)
    top, left, bottom, right = padding
    numbers = NUMBERS[kind]
    padded_h, padded_w = height + top + bottom, width + left + right
    out_h = (padded_h - kernel_h) // strides[0] + 1
    out_w = (padded_w - kernel_width) // strides[1] + 1
    row = max(padded_w * depth, (out_w - 1) * strides[1] * depth + units * numbers)
    dtype = "uint16" if kind == "bf16" else "uint8"
    nothing = tirx.const(0 if kind == "bf16" else zero, dtype)

    def code(n: tirx.Expr, y: tirx.Expr, e: tirx.Expr) -> tirx.Expr:
        inside = tirx.all(y >= top, y < top + height, e >= left * depth, e < (left + width) * depth)
        at = e - left * depth
        value = data(n, y - top, at // depth, at % depth)
        return tirx.if_then_else(inside, _code(value, kind, scale, zero), nothing)

    codes = te.compute([batch, padded_h, extent(row)], code, name="narrow_pad")
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


def _code(value: tirx.Expr, kind: str, scale: float, zero: int) -> tirx.Expr:
    if kind == "int8":
        steps = tirx.nearbyint(value * tirx.const(scale, "float32"))
        low, high = (tirx.const(s * float(LARGEST_CODE), "float32") for s in (-1, 1))
        clipped = tirx.max(tirx.min(steps, high), low)
        return (clipped.astype("int32") + zero).astype("uint8")  # int8 codes: their bits
    bits = tirx.reinterpret("uint32", value)
    half = tirx.const(0x7FFF, "uint32")
    by = tirx.const(16, "uint32")
    return ((bits + half + ((bits >> by) & tirx.const(1, "uint32"))) >> by).astype("uint16")


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def function(data: te.Tensor, weight: te.Tensor) -> te.Tensor:
        return te_conv2d_narrow(
            data,
            weight,
            kind=choice(call, "kind", tuple(NUMBERS)),
            kernel_width=integer(call, "kernel_width", 1),
            strides=integers(call, "strides", 2, 1),
            padding=integers(call, "padding", 4, 0),
            scale=_scale(call),
            zero=_zero(call),
        )

    pattern, finish = OUT_ELEMENTWISE_FUSABLE, _dot.sum_products
    return primfunc(bb, "conv2d_narrow", pattern, function, call.args, finish)


register(conv2d_narrow, _infer, _legalise)
