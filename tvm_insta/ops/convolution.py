"""`insta.convolution`: a convolution as PyTorch lays it out; `passes.to_nhwc` makes `insta.conv2d`.

data [N, C, H, W] float32, weight [O, C / groups, KH, KW] float32, result [N, O, OH, OW] float32.
The meaning of all attributes is that of `insta.conv2d`. Its kernel is TVM's own, for checks only.
"""

from __future__ import annotations

from tvm import relax, topi

from ._common import Dim, expect_dim, expect_divisible, known, output_image
from ._declare import Argument, Operator
from ._window import GroupedWindow


def _type_of(
    call: relax.Call, attributes: GroupedWindow, data: list[Dim], weight: list[Dim]
) -> relax.TensorType:
    channels, out, groups = known(data[1]), known(weight[0]), attributes.groups
    expect_divisible(call, "input channels", channels, groups)
    expect_divisible(call, "output channels", out, groups)
    expect_dim(call, ("weight", 1), weight[1], channels // groups, "input channels of a group")
    image = output_image(
        call,
        data[2:],
        [known(size) for size in weight[2:]],
        strides=attributes.strides,
        padding=attributes.padding,
        dilation=attributes.dilation,
    )
    return relax.TensorType([data[0], out, *image], "float32")


def _legalise(
    builder: relax.BlockBuilder, call: relax.Call, attributes: GroupedWindow
) -> relax.Expr:
    return builder.call_te(
        topi.nn.conv,
        *call.args,
        list(attributes.strides),
        list(attributes.padding),
        list(attributes.dilation),
        attributes.groups,
        "NCHW",
        "OIHW",
        primfunc_name_hint="convolution",
    )


convolution = Operator(
    "convolution",
    [
        Argument("data", "float32", 4, known=[1]),
        Argument("weight", "float32", 4, known=range(4)),
    ],
    GroupedWindow,
    _type_of,
    legalise=_legalise,
)
