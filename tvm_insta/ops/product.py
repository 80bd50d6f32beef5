"""`insta.product`: rows of one computed tensor times rows of another.

left [N, G, M, K] float32, right [N, G, O, K] float32, result [N, G, M, O] float32: for each n and g
``left @ right^T``. The front end writes it where both factors are level tensors; `passes.recognise`
packs them and makes `insta.bitserial_product` of it.
"""

from __future__ import annotations

from tvm import relax, te

from ._common import OUT_ELEMENTWISE_FUSABLE, Dim, expect_dim, known, reduce_axis
from ._declare import Argument, LayerAttributes, Operator


def factors(dtype: str) -> list[Argument]:
    """The declarations of both factors."""
    return [Argument(name, dtype, 4, known=[2, 3]) for name in ("left", "right")]


def expect_same_batch(call: relax.Call, left: list[Dim], right: list[Dim]) -> None:
    """Check that N and G agree."""
    for axis in (0, 1):
        expect_dim(call, ("right", axis), right[axis], left[axis], "as of left")


def _type_of(
    call: relax.Call, _: LayerAttributes, left: list[Dim], right: list[Dim]
) -> relax.TensorType:
    expect_same_batch(call, left, right)
    expect_dim(call, ("right", 3), right[3], left[3], "as of left")
    return relax.TensorType([*left[:3], right[2]], "float32")


def te_product(left: te.Tensor, right: te.Tensor, _: LayerAttributes) -> te.Tensor:
    """TE of the operator: one reduce block "product"."""
    k = reduce_axis(known(left.shape[3]), "k")
    return te.compute(
        [*left.shape[:3], right.shape[2]],
        lambda n, g, m, o: te.sum(left(n, g, m, k) * right(n, g, o, k), axis=k),
        name="product",
    )


product = Operator(
    "product",
    factors("float32"),
    LayerAttributes,
    _type_of,
    te_product,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
