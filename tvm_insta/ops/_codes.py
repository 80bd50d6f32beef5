"""Float images as narrow numbers, of which `conv2d_narrow` and `conv2d_tiles` make products.

The codes of one padded row of the image lie side by side, channels fastest. bf16 rounds to nearest,
ties to even. A code of int8 is zero + clip(round(data * scale), -127, 127).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import tvm
from tvm import relax, te, tirx

from ._common import Dim, extent, fail, known, output_image
from .packing import LARGEST_CODE, ZERO_CODE

# TVM makes vectors of `round` and `floor`, but not of `nearbyint`: its loop would stay scalar.
tvm.ir.register_op_attr("tirx.nearbyint", "TVectorizable", True)

BLOCK = "narrow_pad"
"""The block that makes the codes."""


class Sums(Protocol):
    """The attributes of an operator that sums products of codes."""

    @property
    def kind(self) -> str:
        """One of "bf16" and "int8"."""

    @property
    def zero(self) -> int:
        """The code of 0, for kind "int8"."""

    @property
    def strides(self) -> Sequence[int]:
        """Vertical, horizontal."""

    @property
    def padding(self) -> Sequence[int]:
        """Top, left, bottom, right."""


def type_of_sums(
    call: relax.Call,
    attributes: Sums,
    data: list[Dim],
    kernel: tuple[int, int],
    out_channels: int,
) -> relax.TensorType:
    """The result [N, OH, OW, O] of such an operator, float32 for "bf16" and int32 for "int8".

    Args:
        call: of the operator.
        attributes: of the call.
        data: [N, H, W, C].
        kernel: height, width.
        out_channels: O.

    Raises:
        OpError: the code of 0 is none, sums may overflow, or the kernel is larger than the image.
    """
    zero, channels, (height, width) = attributes.zero, known(data[3]), kernel
    if zero not in (0, ZERO_CODE):
        fail(call, f"zero is {zero}; pass {ZERO_CODE} for uint8 codes or 0 for int8 codes")
    most = (zero + LARGEST_CODE) * LARGEST_CODE  # the largest product of a code and a weight
    if attributes.kind == "int8" and height * width * channels * most >= 2**31:
        fail(call, f"{height} x {width} taps of {channels} channels may overflow int32; use bf16")
    image = output_image(
        call,
        data[1:3],
        kernel,
        strides=attributes.strides,
        padding=attributes.padding,
        dilation=[1, 1],
    )
    dtype = "float32" if attributes.kind == "bf16" else "int32"
    return relax.TensorType([data[0], *image, out_channels], dtype)


def te_codes(
    data: te.Tensor, padding: Sequence[int], row: int, kind: str, scale: float, zero: int
) -> te.Tensor:
    """The codes [N, Hp, row] of a padded image, uint16 for "bf16" and uint8 for "int8".

    Args:
        data: [N, H, W, C] float32.
        padding: top, left, bottom, right, in pixels of the code of 0.
        row: numbers of a row; those behind the image and its padding are codes of 0.
        kind: "bf16" or "int8".
        scale: steps of a code per unit of data, for kind "int8".
        zero: the code of 0, for kind "int8".
    """
    batch, height, image_width, channels = data.shape
    width, depth = known(image_width), known(channels)
    top, left, bottom, _ = padding
    dtype = "uint16" if kind == "bf16" else "uint8"
    nothing = tirx.const(0 if kind == "bf16" else zero, dtype)

    def code(n: tirx.Expr, y: tirx.Expr, e: tirx.Expr) -> tirx.Expr:
        inside = tirx.all(y >= top, y < top + height, e >= left * depth, e < (left + width) * depth)
        at = e - left * depth
        value = data(n, y - top, at // depth, at % depth)
        return tirx.if_then_else(inside, _code(value, kind, scale, zero), nothing)

    return te.compute([batch, height + top + bottom, extent(row)], code, name=BLOCK)


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
