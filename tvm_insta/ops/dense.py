"""`insta.dense`: a fully connected layer that stays float, data [N, C] times weight [C, O].

Result [N, O] float32, the matrix product; `passes.lower_floats` makes a 1x1 convolution of it where
the weight is constant.
"""

from __future__ import annotations

from tvm import relax, te

from ._common import OUT_ELEMENTWISE_FUSABLE, Dim, expect_dim, known, reduce_axis
from ._declare import Argument, LayerAttributes, Operator


def _type_of(
    call: relax.Call, _: LayerAttributes, data: list[Dim], weight: list[Dim]
) -> relax.TensorType:
    expect_dim(call, ("weight", 0), weight[0], data[1], "input features")
    return relax.TensorType([data[0], weight[1]], "float32")


def te_dense(data: te.Tensor, weight: te.Tensor, _: LayerAttributes) -> te.Tensor:
    """TE of the operator: one reduce block "dense"."""
    c = reduce_axis(known(weight.shape[0]), "c")
    return te.compute(
        [data.shape[0], weight.shape[1]],
        lambda n, o: te.sum(data(n, c) * weight(c, o), axis=c),
        name="dense",
    )


dense = Operator(
    "dense",
    [Argument("data", "float32", 2, known=[1]), Argument("weight", "float32", 2, known=[0, 1])],
    LayerAttributes,
    _type_of,
    te_dense,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
