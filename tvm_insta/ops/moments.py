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
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, s_tir, te, tirx
from tvm_ffi import structural_map

from ._common import Dim, extent
from ._declare import Argument, Attributes, Operator, different, integer


@dataclass(frozen=True, kw_only=True)
class Moments(Attributes):
    """Of `moments` and `moment_rows`.

    Attributes:
        orders: different integers from 1..4, in any order.
    """

    orders: Sequence[int] = different(low=1, high=4, default=(3,))


@dataclass(frozen=True, kw_only=True)
class MomentMean(Attributes):
    """Of `moment_mean`.

    Attributes:
        width: pixels of a row.
    """

    width: int = integer(low=1)


def _type_of(_: relax.Call, attributes: Moments, x: list[Dim]) -> relax.TensorType:
    return relax.TensorType([x[0], len(attributes.orders), x[3]], "float32")


def _type_of_rows(_: relax.Call, attributes: Moments, x: list[Dim]) -> relax.TensorType:
    return relax.TensorType([x[0], x[1], len(attributes.orders), x[3]], "float32")


def _type_of_mean(_: relax.Call, __: MomentMean, rows: list[Dim]) -> relax.TensorType:
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


def fuse_products(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """``sum + a * b`` becomes ``fma(a, b, sum)`` in "moment_rows", which TE has no sum for."""

    def update(block: Any) -> Any:
        if not block.name_hint.startswith("moment_rows"):  # a second one is "moment_rows_1"
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


tirx.register_intrin_lowering(
    "tirx.fma",
    target="cuda",
    f=lambda call: tirx.call_pure_extern("float32", "fmaf", *call.args),
    level=99,
)

moments = Operator(
    "moments",
    [Argument("x", "float32", 4, known=[3])],
    Moments,
    _type_of,
    lambda x, attributes: te_moments(x, attributes.orders),
    finish=fuse_products,
)
"""[N, H, W, C] float32 -> [N, len(orders), C] float32."""

moment_rows = Operator(
    "moment_rows",
    [Argument("x", "float32", 4, known=[3])],
    Moments,
    _type_of_rows,
    lambda x, attributes: te_moment_rows(x, attributes.orders),
    finish=fuse_products,
)
"""The powers of each row, summed: [N, H, W, C] float32 -> [N, H, len(orders), C] float32."""

moment_mean = Operator(
    "moment_mean",
    [Argument("rows", "float32", 4, known=[2, 3])],
    MomentMean,
    _type_of_mean,
    lambda rows, attributes: te_moment_mean(rows, extent(attributes.width)),
)
"""Moments of the sums of the rows: [N, H, J, C] float32 -> [N, J, C] float32."""
