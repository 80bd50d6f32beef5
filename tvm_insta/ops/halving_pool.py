"""`insta.halving_pool`: the mean of every 2 x 2 pixels, written as one expression.

data [N, H, W, C] float32, H and W at least 2; result [N, H // 2, W // 2, C] float32, rounded after
each addition; the product is exact but for subnormal numbers:

    out[n, y, x, c] = (((data[n, 2y, 2x, c] + data[n, 2y, 2x+1, c])
                        + data[n, 2y+1, 2x, c]) + data[n, 2y+1, 2x+1, c]) * 0.25

TVM's own average pool is a reduction, which cannot be part of the epilogue that adds it.
"""

from __future__ import annotations

from tvm import relax, te, tirx

from ._common import (
    INJECTIVE,
    dims,
    expect_known,
    extent,
    fail,
    known,
    make_call,
    primfunc,
    register,
)


def halving_pool(data: relax.Expr) -> relax.Call:
    """Build the call; shapes and meaning are in the module's docstring.

    Args:
        data: [N, H, W, C] float32; an odd last row or column is left out.

    Returns:
        A call of type [N, H // 2, W // 2, C] float32.
    """
    return make_call("halving_pool", [data])


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    data = dims(call, 0, "data", (4,), "float32")
    expect_known(call, "data", data, (1, 2, 3))
    batch, height, width, channels = data
    if height < 2 or width < 2:
        fail(call, f"data has {height} rows of {width} pixels; pass at least 2 of each")
    return relax.TensorType([batch, height // 2, width // 2, channels], "float32")


def te_halving_pool(data: te.Tensor) -> te.Tensor:
    """TE of the operator: one block, "halving_pool"."""
    batch, height, width, channels = data.shape

    def mean(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        upper = data(n, y * 2, x * 2, c) + data(n, y * 2, x * 2 + 1, c)
        total = upper + data(n, y * 2 + 1, x * 2, c) + data(n, y * 2 + 1, x * 2 + 1, c)
        return total * tirx.const(0.25, "float32")

    shape = [batch, extent(known(height) // 2), extent(known(width) // 2), channels]
    return te.compute(shape, mean, name="halving_pool")


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return primfunc(bb, "halving_pool", INJECTIVE, te_halving_pool, call.args)


register(halving_pool, _infer, _legalise)
