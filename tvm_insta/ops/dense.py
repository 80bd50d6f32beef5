"""`insta.dense`: a fully connected layer that stays float, data [N, C] times weight [C, O].

Result [N, O] float32, the matrix product; `passes.lower` makes a 1x1 convolution of it where the
weight is constant.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, te

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    dims,
    expect_dim,
    expect_known,
    known,
    make_call,
    primfunc,
    reduce_axis,
    register,
)


def dense(data: relax.Expr, weight: relax.Expr, *, layers: Sequence[str] = ()) -> relax.Call:
    """Build the call.

    Args:
        data: [N, C] float32.
        weight: [C, O] float32.
        layers: names of the layers that are computed.

    Returns:
        A call of type [N, O] float32.
    """
    return make_call("dense", [data, weight], layers=list(layers))


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    data = dims(call, 0, "data", (2,), "float32")
    weight = dims(call, 1, "weight", (2,), "float32")
    expect_known(call, "data", data, (1,))
    expect_known(call, "weight", weight, (0, 1))
    expect_dim(call, ("weight", 0), weight[0], data[1], "input features")
    return relax.TensorType([data[0], weight[1]], "float32")


def te_dense(data: te.Tensor, weight: te.Tensor) -> te.Tensor:
    """TE of the operator: one reduce block "dense"."""
    c = reduce_axis(known(weight.shape[0]), "c")
    return te.compute(
        [data.shape[0], weight.shape[1]],
        lambda n, o: te.sum(data(n, c) * weight(c, o), axis=c),
        name="dense",
    )


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return primfunc(bb, "dense", OUT_ELEMENTWISE_FUSABLE, te_dense, call.args)


register(dense, _infer, _legalise)
