"""Raw moments of every channel over the image, in a fixed order of summation.

`insta.moments`: x [N, H, W, C] float32 -> [N, len(orders), C] float32, entry j is E[x**orders[j]]
over H and W. `insta.moment_rows` and `insta.moment_mean` are its two halves: steps 1, and 2 with 3.
INSTA-Th needs order 3. The result feeds a comparison, where one unit in the last place can flip a
bit; so the order is part of the definition and no schedule may change it:

1. per row a float32 sum of the powers from left to right    (block "moment_rows"),
2. a float64 sum of the rows from top to bottom              (block "moment_total"),
3. the float64 quotient by H * W, rounded to float32 once    (block "moment_out").

x**k is ((x * x) * x) ..., each product rounded to float32; the last one only where the target has
no fused multiply-add. `tirx.fma` says so, and leaves LLVM no choice that could depend on the
schedule or on the other orders. Rows are independent: a producer may emit step 1 for each row it
finishes, and threads may share the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax, s_tir, te, tirx
from tvm_ffi import structural_map

from ._common import (
    OPAQUE,
    dims,
    expect_known,
    extent,
    fail,
    integer,
    make_call,
    primfunc,
    register,
)


def moments(x: relax.Expr, orders: Sequence[int] = (3,)) -> relax.Call:
    """Build the call; shapes and meaning are in the module's docstring.

    Args:
        x: [N, H, W, C] float32.
        orders: different integers from 1..4, in any order.

    Returns:
        A call of type [N, len(orders), C] float32.
    """
    return make_call("moments", [x], orders=list(orders))


def moment_rows(x: relax.Expr, orders: Sequence[int] = (3,)) -> relax.Call:
    """Build the call that sums the powers of each row.

    Args:
        x: [N, H, W, C] float32.
        orders: as for `moments`.

    Returns:
        A call of type [N, H, len(orders), C] float32.
    """
    return make_call("moment_rows", [x], orders=list(orders))


def moment_mean(rows: relax.Expr, width: int) -> relax.Call:
    """Build the call that makes moments of the sums of the rows.

    Args:
        rows: [N, H, J, C] float32, from `moment_rows`.
        width: pixels of a row.

    Returns:
        A call of type [N, J, C] float32.
    """
    return make_call("moment_mean", [rows], width=width)


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


def _infer_rows(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    x = dims(call, 0, "x", (4,), "float32")
    expect_known(call, "x", x, (3,))
    return relax.TensorType([x[0], x[1], len(_orders(call)), x[3]], "float32")


def _infer_mean(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    rows = dims(call, 0, "rows", (4,), "float32")
    expect_known(call, "rows", rows, (2, 3))
    integer(call, "width", 1)
    return relax.TensorType([rows[0], *rows[2:]], "float32")


def te_moments(x: te.Tensor, orders: Sequence[int]) -> te.Tensor:
    """TE of the operator: blocks "moment_rows", "moment_total" and "moment_out"."""
    return te_moment_mean(te_moment_rows(x, orders), x.shape[2])


def te_moment_rows(x: te.Tensor, orders: Sequence[int]) -> te.Tensor:
    """TE of step 1: block "moment_rows"."""
    batch, height, width, channels = x.shape
    column = te.reduce_axis((0, width), "column")

    def power(n: tirx.Expr, y: tirx.Expr, j: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        value = x(n, y, column, c)
        powers = {1: value}
        for k in range(2, max(orders) + 1):
            powers[k] = powers[k - 1] * value
        chosen = powers[orders[-1]]
        for position in reversed(range(len(orders) - 1)):
            chosen = tirx.Select(j == position, powers[orders[position]], chosen)
        return te.sum(chosen, axis=column)

    shape = [batch, height, extent(len(orders)), channels]
    return te.compute(shape, power, name="moment_rows")


def te_moment_mean(rows: te.Tensor, width: tirx.Expr) -> te.Tensor:
    """TE of steps 2 and 3: blocks "moment_total" and "moment_out"."""
    batch, height, count, channels = rows.shape
    row = te.reduce_axis((0, height), "row")
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
    return primfunc(
        bb, "moments", OPAQUE, lambda x: te_moments(x, orders), call.args, fuse_products
    )


def _legalise_rows(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    orders = _orders(call)
    return primfunc(
        bb, "moment_rows", OPAQUE, lambda x: te_moment_rows(x, orders), call.args, fuse_products
    )


def fuse_products(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """``sum + a * b`` becomes ``fma(a, b, sum)`` in "moment_rows", which TE has no sum for."""

    def update(block: Any) -> Any:
        if block.name_hint != "moment_rows":
            return block
        return structural_map(block, [(tvm.tirx.BufferStore, store)])

    def store(node: Any) -> Any:
        if not isinstance(node.value, tirx.Add):
            return node
        return tirx.BufferStore(node.buffer, add(node.value.a, node.value.b), node.indices)

    def add(total: tirx.Expr, term: tirx.Expr) -> tirx.Expr:
        if isinstance(term, tirx.Mul):
            return tirx.call_intrin("float32", "tirx.fma", term.a, term.b, total)
        if isinstance(term, tirx.Select):  # which of several orders
            return tirx.Select(
                term.condition, add(total, term.true_value), add(total, term.false_value)
            )
        return total + term

    return structural_map(function, [(s_tir.SBlock, update)])


def _legalise_mean(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    width = extent(integer(call, "width", 1))
    return primfunc(bb, "moment_mean", OPAQUE, lambda rows: te_moment_mean(rows, width), call.args)


tirx.register_intrin_lowering(
    "tirx.fma",
    target="cuda",
    f=lambda call: tirx.call_pure_extern("float32", "fmaf", *call.args),
    level=99,
)
register(moments, _infer, _legalise)
register(moment_rows, _infer_rows, _legalise_rows)
register(moment_mean, _infer_mean, _legalise_mean)
