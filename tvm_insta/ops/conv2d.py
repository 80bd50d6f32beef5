"""`insta.conv2d` and `insta.conv2d_blocked`: the float convolutions that stay float, in NHWC.

data [N, H, W, C] float32. Canonical weight [O, KH, KW, C / groups] float32; blocked weight
[O / L, KH, KW, C / groups, L] float32 with L output channels side by side for the vector lanes.
Result [N, OH, OW, O] float32 with zero padding. Products are added in float32 in the order ky, kx,
c; whether a product is rounded before it is added (fused multiply-add) is up to the target.
"""

from __future__ import annotations

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    Dim,
    expect_dim,
    expect_divisible,
    extent,
    known,
    output_image,
    reduce_axis,
)
from ._declare import Argument, Operator
from ._window import GroupedWindow


def _type_of(
    call: relax.Call, attributes: GroupedWindow, data: list[Dim], weight: list[Dim]
) -> relax.TensorType:
    out = known(weight[0]) * (known(weight[4]) if len(weight) == 5 else 1)
    channels, groups = known(data[3]), attributes.groups
    expect_divisible(call, "input channels", channels, groups)
    expect_divisible(call, "output channels", out, groups)
    expect_dim(call, ("weight", 3), weight[3], channels // groups, "input channels of a group")
    image = output_image(
        call,
        data[1:3],
        [known(size) for size in weight[1:3]],
        strides=attributes.strides,
        padding=attributes.padding,
        dilation=attributes.dilation,
    )
    return relax.TensorType([data[0], *image, out], "float32")


def te_conv2d(
    data: te.Tensor,
    weight: te.Tensor,
    attributes: GroupedWindow,
) -> te.Tensor:
    """TE of both forms: block "pad" where there is padding, then the reduction.

    The reduce block is "conv2d" for a canonical weight and "fconv" for a blocked one.
    """
    blocked = len(weight.shape) == 5
    strides, dilation, groups = attributes.strides, attributes.dilation, attributes.groups
    blocks, kernel_h, kernel_w, per_group = map(known, weight.shape[:4])
    lanes = known(weight.shape[4]) if blocked else 1
    out = blocks * lanes
    batch, height, width, channels = data.shape
    top, left, bottom, right = attributes.padding
    padded_h, padded_w = height + top + bottom, width + left + right

    def surround(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        inside = tirx.all(y >= top, y < top + height, x >= left, x < left + width)
        zero = tirx.const(0.0, "float32")
        return tirx.if_then_else(inside, data(n, y - top, x - left, c), zero)

    padded = data
    if any(attributes.padding):
        padded = te.compute([batch, padded_h, padded_w, channels], surround, name="pad")
    ky, kx = reduce_axis(kernel_h, "ky"), reduce_axis(kernel_w, "kx")
    c = reduce_axis(per_group, "c")

    def product(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        row, column = y * strides[0] + ky * dilation[0], x * strides[1] + kx * dilation[1]
        channel = c if groups == 1 else o // (out // groups) * per_group + c
        factor = weight(o // lanes, ky, kx, c, o % lanes) if blocked else weight(o, ky, kx, c)
        return te.sum(padded(n, row, column, channel) * factor, axis=[ky, kx, c])

    out_h = (padded_h - (dilation[0] * (kernel_h - 1) + 1)) // strides[0] + 1
    out_w = (padded_w - (dilation[1] * (kernel_w - 1) + 1)) // strides[1] + 1
    return te.compute(
        [batch, out_h, out_w, extent(out)],
        product,
        name="fconv" if blocked else "conv2d",
        attrs={"schedule_rule": "insta_fconv"} if blocked else {},
    )


_DATA = Argument("data", "float32", 4, known=[3])

conv2d = Operator(
    "conv2d",
    [_DATA, Argument("weight", "float32", 4, known=range(4))],
    GroupedWindow,
    _type_of,
    te_conv2d,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)

conv2d_blocked = Operator(
    "conv2d_blocked",
    [_DATA, Argument("weight", "float32", 5, known=range(5))],
    GroupedWindow,
    _type_of,
    te_conv2d,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
