"""`insta.repeat_channels`: the channels of an image several times over, side by side.

data [N, H, W, C] float32; result [N, H, W, times * C] float32:

    out[n, y, x, o] = data[n, y, x, o % C]

Parallel branches that add the same shortcut are computed as one convolution, which adds this. It is
never meant to be a tensor: fused into an epilogue it is a load.
"""

from __future__ import annotations

from tvm import relax, te

from ._common import (
    INJECTIVE,
    dims,
    expect_known,
    extent,
    integer,
    known,
    make_call,
    primfunc,
    register,
)


def repeat_channels(data: relax.Expr, *, times: int) -> relax.Call:
    """Build the call; shapes and meaning are in the module's docstring.

    Args:
        data: [N, H, W, C] float32.
        times: how often the channels are repeated, 1 or more.

    Returns:
        A call of type [N, H, W, times * C] float32.
    """
    return make_call("repeat_channels", [data], times=times)


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    data = dims(call, 0, "data", (4,), "float32")
    expect_known(call, "data", data, (3,))
    times = integer(call, "times", 1)
    return relax.TensorType([*data[:3], data[3] * times], "float32")


def te_repeat_channels(data: te.Tensor, *, times: int) -> te.Tensor:
    """TE of the operator: one block, "repeat_channels"."""
    *image, channels = data.shape
    count = known(channels)
    return te.compute(
        [*image, extent(count * times)],
        lambda n, y, x, o: data(n, y, x, o % count),
        name="repeat_channels",
    )


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def function(data: te.Tensor) -> te.Tensor:
        return te_repeat_channels(data, times=integer(call, "times", 1))

    return primfunc(bb, "repeat_channels", INJECTIVE, function, call.args)


register(repeat_channels, _infer, _legalise)
