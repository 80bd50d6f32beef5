"""`insta.product`: rows of one computed tensor times rows of another.

left [N, G, M, K] float32, right [N, G, O, K] float32, result [N, G, M, O] float32: for each n and g
``left @ right^T``. The front end writes it where both factors are level tensors; `passes.recognise`
packs them and makes `insta.bitserial_product` of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, te

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    Dim,
    dims,
    expect_dim,
    expect_known,
    known,
    make_call,
    primfunc,
    reduce_axis,
    register,
)


def product(left: relax.Expr, right: relax.Expr, *, layers: Sequence[str] = ()) -> relax.Call:
    """Build the call.

    Args:
        left: [N, G, M, K] float32.
        right: [N, G, O, K] float32.
        layers: names of the layers that are computed.

    Returns:
        A call of type [N, G, M, O] float32.
    """
    return make_call("product", [left, right], layers=list(layers))


def factors(call: relax.Call, dtype: str) -> tuple[list[Dim], list[Dim]]:
    """The shapes of both factors; N, G and the last dimension's meaning are checked to agree."""
    left, right = dims(call, 0, "left", (4,), dtype), dims(call, 1, "right", (4,), dtype)
    for axis in (0, 1):
        expect_dim(call, ("right", axis), right[axis], left[axis], "as of left")
    for name, shape in (("left", left), ("right", right)):
        expect_known(call, name, shape, (2, 3))
    return left, right


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    left, right = factors(call, "float32")
    expect_dim(call, ("right", 3), right[3], left[3], "as of left")
    return relax.TensorType([*left[:3], right[2]], "float32")


def te_product(left: te.Tensor, right: te.Tensor) -> te.Tensor:
    """TE of the operator: one reduce block "product"."""
    k = reduce_axis(known(left.shape[3]), "k")
    return te.compute(
        [*left.shape[:3], right.shape[2]],
        lambda n, g, m, o: te.sum(left(n, g, m, k) * right(n, g, o, k), axis=k),
        name="product",
    )


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return primfunc(bb, "product", OUT_ELEMENTWISE_FUSABLE, te_product, call.args)


register(product, _infer, _legalise)
