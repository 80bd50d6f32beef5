"""`insta.moments`: raw moments of every channel over the image, in a fixed order of summation.

x [N, H, W, C] float32 -> [N, len(orders), C] float32, entry j is E[x**orders[j]] over H and W.
INSTA-Th needs order 3. The result feeds a comparison, where one unit in the last place can flip a
bit; so the order is part of the definition and no schedule may change it:

1. per row a float32 sum of the powers from left to right    (block "moment_rows"),
2. a float64 sum of the rows from top to bottom              (block "moment_total"),
3. the float64 quotient by H * W, rounded to float32 once    (block "moment_out").

x**k is ((x * x) * x) ..., each product rounded to float32, and at most the largest finite float32
(so +inf counts as that; NaN stays). The clamp is what makes the result the same on every target:
without it LLVM fuses the last product into the addition where the CPU can, unless the product is
used twice, so that bits would depend on the CPU, on the schedule and on the set of orders. Rows are
independent: a producer may emit step 1 for each row it finishes, and threads may share the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax, te, tirx

from ._common import (
    OPAQUE,
    dims,
    expect_known,
    extent,
    fail,
    make_call,
    primfunc,
    register,
)

LARGEST = float(np.finfo(np.float32).max)


def moments(x: relax.Expr, orders: Sequence[int] = (3,)) -> relax.Call:
    """Build the call; shapes and meaning are in the module's docstring.

    Args:
        x: [N, H, W, C] float32.
        orders: different integers from 1..4, in any order.

    Returns:
        A call of type [N, len(orders), C] float32.
    """
    return make_call("moments", [x], orders=list(orders))


def _orders(call: relax.Call) -> list[int]:
    orders = list(call.attrs["orders"])
    good = all(isinstance(k, int) and 1 <= k <= 4 for k in orders)
    if not orders or not good or len(set(orders)) != len(orders):
        fail(call, f"orders is {orders}; pass one or more different integers from 1..4")
    return orders


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    x = dims(call, 0, "x", (4,), "float32")
    expect_known(call, "x", x, (3,))
    return relax.TensorType([x[0], len(_orders(call)), x[3]], "float32")


def te_moments(x: te.Tensor, orders: Sequence[int]) -> te.Tensor:
    """TE of the operator: blocks "moment_rows", "moment_total" and "moment_out"."""
    batch, height, width, channels = x.shape
    count = extent(len(orders))
    largest = tirx.const(LARGEST, "float32")
    column = te.reduce_axis((0, width), "column")
    row = te.reduce_axis((0, height), "row")

    def power(n: tirx.Expr, y: tirx.Expr, j: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        value = x(n, y, column, c)
        products = {1: value}
        for k in range(2, max(orders) + 1):
            products[k] = products[k - 1] * value
        # Written so that NaN passes. A lower bound would not do: LLVM knows that x * x is above it.
        powers = {k: tirx.Select(p > largest, largest, p) for k, p in products.items()}
        chosen = powers[orders[-1]]
        for position in reversed(range(len(orders) - 1)):
            chosen = tirx.Select(j == position, powers[orders[position]], chosen)
        return te.sum(chosen, axis=column)

    rows = te.compute([batch, height, count, channels], power, name="moment_rows")
    total = te.compute(
        [batch, count, channels],
        lambda n, j, c: te.sum(rows(n, row, j, c).astype("float64"), axis=row),
        name="moment_total",
    )
    pixels = (height * width).astype("float64")
    return te.compute(
        [batch, count, channels],
        lambda n, j, c: (total(n, j, c) / pixels).astype("float32"),
        name="moment_out",
    )


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    orders = _orders(call)
    return primfunc(bb, "moments", OPAQUE, lambda x: te_moments(x, orders), call.args)


register(moments, _infer, _legalise)
