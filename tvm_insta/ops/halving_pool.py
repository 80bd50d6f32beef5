"""`insta.halving_pool`: the mean of every 2 x 2 pixels, written as one expression.

data [N, H, W, C] float32, H and W at least 2; result [N, H // 2, W // 2, C] float32, rounded after
each addition; the product is exact but for subnormal numbers:

    out[n, y, x, c] = (((data[n, 2y, 2x, c] + data[n, 2y, 2x+1, c])
                        + data[n, 2y+1, 2x, c]) + data[n, 2y+1, 2x+1, c]) * 0.25

TVM's own average pool is a reduction, which cannot be part of the epilogue that adds it.
"""

from __future__ import annotations

from tvm import relax, te, tirx

from ._common import INJECTIVE, Dim, extent, fail, known
from ._declare import Argument, Attributes, Operator


def _type_of(call: relax.Call, _: Attributes, data: list[Dim]) -> relax.TensorType:
    height, width = known(data[1]), known(data[2])
    if height < 2 or width < 2:
        fail(call, f"data has {height} rows of {width} pixels; pass at least 2 of each")
    return relax.TensorType([data[0], height // 2, width // 2, data[3]], "float32")


def te_halving_pool(data: te.Tensor) -> te.Tensor:
    """TE of the operator: one block, "halving_pool"."""
    batch, height, width, channels = data.shape

    def mean(n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        upper = data(n, y * 2, x * 2, c) + data(n, y * 2, x * 2 + 1, c)
        total = upper + data(n, y * 2 + 1, x * 2, c) + data(n, y * 2 + 1, x * 2 + 1, c)
        return total * tirx.const(0.25, "float32")

    shape = [batch, extent(known(height) // 2), extent(known(width) // 2), channels]
    return te.compute(shape, mean, name="halving_pool")


halving_pool = Operator(
    "halving_pool",
    [Argument("data", "float32", 4, known=[1, 2, 3])],
    Attributes,
    _type_of,
    te_halving_pool,
    pattern=INJECTIVE,
)
