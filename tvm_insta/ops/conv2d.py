"""`insta.conv2d` and `insta.conv2d_blocked`: the float convolutions that stay float, in NHWC.

data [N, H, W, C] float32. Canonical weight [O, KH, KW, C / groups] float32; blocked weight
[O / L, KH, KW, C / groups, L] float32 with L output channels side by side for the vector lanes.
Result [N, OH, OW, O] float32 with zero padding. Products are added in float32 in the order ky, kx,
c; whether a product is rounded before it is added (fused multiply-add) is up to the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    dims,
    expect_dim,
    expect_divisible,
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
)


def conv2d(
    data: relax.Expr,
    weight: relax.Expr,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    layers: Sequence[str] = (),
) -> relax.Call:
    """Build the canonical call.

    Args:
        data: [N, H, W, C] float32.
        weight: [O, KH, KW, C / groups] float32.
        strides: vertical, horizontal.
        padding: top, left, bottom, right, in pixels of value 0.
        dilation: vertical, horizontal.
        groups: convolution groups; O and C are multiples of it.
        layers: names of the layers that are computed.

    Returns:
        A call of type [N, OH, OW, O] float32.
    """
    return make_call(
        "conv2d",
        [data, weight],
        strides=list(strides),
        padding=list(padding),
        dilation=list(dilation),
        groups=groups,
        layers=list(layers),
    )


def conv2d_blocked(
    data: relax.Expr,
    weight: relax.Expr,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    layers: Sequence[str] = (),
) -> relax.Call:
    """Build the blocked call: as `conv2d`, but weight is [O / L, KH, KW, C / groups, L] float32."""
    return make_call(
        "conv2d_blocked",
        [data, weight],
        strides=list(strides),
        padding=list(padding),
        dilation=list(dilation),
        groups=groups,
        layers=list(layers),
    )


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    blocked = call.op.name.endswith("_blocked")
    data = dims(call, 0, "data", (4,), "float32")
    weight = dims(call, 1, "weight", (5 if blocked else 4,), "float32")
    strides = integers(call, "strides", 2, 1)
    padding = integers(call, "padding", 4, 0)
    dilation = integers(call, "dilation", 2, 1)
    groups = integer(call, "groups", 1)
    expect_known(call, "data", data, (3,))
    expect_known(call, "weight", weight, range(len(weight)))
    out = weight[0] * (weight[4] if blocked else 1)
    expect_divisible(call, "input channels", data[3], groups)
    expect_divisible(call, "output channels", out, groups)
    expect_dim(call, ("weight", 3), weight[3], data[3] // groups, "input channels of a group")
    image = output_image(
        call,
        data[1:3],
        weight[1:3],
        strides=strides,
        padding=padding,
        dilation=dilation,
    )
    return relax.TensorType([data[0], *image, out], "float32")


def te_conv2d(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> te.Tensor:
    """TE of both forms: block "pad" where there is padding, then the reduction.

    The reduce block is "conv2d" for a canonical weight and "fconv" for a blocked one.
    """
    blocked = len(weight.shape) == 5
    blocks, kernel_h, kernel_w, per_group = map(known, weight.shape[:4])
    lanes = known(weight.shape[4]) if blocked else 1
    out = blocks * lanes
    batch, height, width, channels = data.shape
    top, left, bottom, right = padding
    padded_h, padded_w = height + top + bottom, width + left + right

    def surround(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        inside = tirx.all(y >= top, y < top + height, x >= left, x < left + width)
        zero = tirx.const(0.0, "float32")
        return tirx.if_then_else(inside, data(n, y - top, x - left, c), zero)

    padded = data
    if any(padding):
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


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def function(data: te.Tensor, weight: te.Tensor) -> te.Tensor:
        return te_conv2d(
            data,
            weight,
            strides=integers(call, "strides", 2, 1),
            padding=integers(call, "padding", 4, 0),
            dilation=integers(call, "dilation", 2, 1),
            groups=integer(call, "groups", 1),
        )

    name = call.op.name.removeprefix("relax.insta.")
    return primfunc(bb, name, OUT_ELEMENTWISE_FUSABLE, function, call.args)


register(conv2d, _infer, _legalise)
register(conv2d_blocked, _infer, _legalise)
