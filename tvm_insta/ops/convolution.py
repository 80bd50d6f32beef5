"""`insta.convolution`: a convolution as PyTorch lays it out; `passes.to_nhwc` makes `insta.conv2d`.

data [N, C, H, W] float32, weight [O, C / groups, KH, KW] float32, result [N, O, OH, OW] float32.
The meaning of all attributes is that of `insta.conv2d`. Its kernel is TVM's own, for checks only.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, topi

from ._common import (
    dims,
    expect_dim,
    expect_divisible,
    expect_known,
    integer,
    integers,
    make_call,
    output_image,
    register,
)


def convolution(
    data: relax.Expr,
    weight: relax.Expr,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    layers: Sequence[str] = (),
) -> relax.Call:
    """Build the call; see `conv2d.conv2d` for the attributes.

    Args:
        data: [N, C, H, W] float32.
        weight: [O, C / groups, KH, KW] float32.
        strides: vertical, horizontal.
        padding: top, left, bottom, right, in pixels of value 0.
        dilation: vertical, horizontal.
        groups: convolution groups; O and C are multiples of it.
        layers: names of the layers that are computed.

    Returns:
        A call of type [N, O, OH, OW] float32.
    """
    return make_call(
        "convolution",
        [data, weight],
        strides=list(strides),
        padding=list(padding),
        dilation=list(dilation),
        groups=groups,
        layers=list(layers),
    )


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    data = dims(call, 0, "data", (4,), "float32")
    weight = dims(call, 1, "weight", (4,), "float32")
    groups = integer(call, "groups", 1)
    expect_known(call, "data", data, (1,))
    expect_known(call, "weight", weight, range(4))
    expect_divisible(call, "input channels", data[1], groups)
    expect_divisible(call, "output channels", weight[0], groups)
    expect_dim(call, ("weight", 1), weight[1], data[1] // groups, "input channels of a group")
    image = output_image(
        call,
        data[2:],
        weight[2:],
        strides=integers(call, "strides", 2, 1),
        padding=integers(call, "padding", 4, 0),
        dilation=integers(call, "dilation", 2, 1),
    )
    return relax.TensorType([data[0], weight[0], *image], "float32")


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return bb.call_te(
        topi.nn.conv,
        call.args[0],
        call.args[1],
        integers(call, "strides", 2, 1),
        integers(call, "padding", 4, 0),
        integers(call, "dilation", 2, 1),
        integer(call, "groups", 1),
        "NCHW",
        "OIHW",
        primfunc_name_hint="convolution",
    )


register(convolution, _infer, _legalise)
