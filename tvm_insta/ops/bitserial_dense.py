"""`insta.bitserial_dense`: a fully connected layer of multi-bit activations and +-1 weights.

data [N, bits * Cw] uint32 as `threshold_pack` writes it for [N, C], Cw = ceil(C / 32); weight
[O, Cw] uint32, bit 1 = +1, bit 0 = -1. Result [N, O] int32, the exact dot product; the values of
the codes are those of `bitserial_conv2d`, of which this is the 1 x 1 case on one pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    WORD,
    choice,
    dims,
    expect_dim,
    expect_int32,
    expect_known,
    extent,
    integer,
    known,
    make_call,
    primfunc,
    reduce_axis,
    register,
    words_for,
)
from .bitserial_conv2d import ENCODINGS


def bitserial_dense(
    data: relax.Expr,
    weight: relax.Expr,
    *,
    in_channels: int,
    bits: int = 1,
    encoding: str = "bipolar",
    layers: Sequence[str] = (),
) -> relax.Call:
    """Build the call; shapes and meaning are in the module's docstring.

    Args:
        data: [N, bits * Cw] uint32.
        weight: [O, Cw] uint32.
        in_channels: C, the input features.
        bits: bits of an activation, 1..4.
        encoding: "bipolar" or "unsigned".
        layers: names of the layers that are computed.

    Returns:
        A call of type [N, O] int32.
    """
    return make_call(
        "bitserial_dense",
        [data, weight],
        in_channels=in_channels,
        bits=bits,
        encoding=encoding,
        layers=list(layers),
    )


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    data = dims(call, 0, "data", (2,), "uint32")
    weight = dims(call, 1, "weight", (2,), "uint32")
    channels = integer(call, "in_channels", 1)
    bits = integer(call, "bits", 1, 4)
    choice(call, "encoding", ENCODINGS)
    expect_known(call, "data", data, (1,))
    expect_known(call, "weight", weight, (0, 1))
    words = words_for(channels)
    expect_dim(call, ("weight", 1), weight[1], words, f"words of in_channels={channels}")
    expect_dim(call, ("data", 1), data[1], bits * words, "bits * words of in_channels")
    expect_int32(call, bits, words, 1)
    return relax.TensorType([data[0], weight[0]], "int32")


def te_bitserial_dense(
    data: te.Tensor, weight: te.Tensor, *, in_channels: int, bits: int, encoding: str
) -> te.Tensor:
    """TE of the operator: one reduce block "bitserial_dense"."""
    out, words = map(known, weight.shape)
    plane, word = reduce_axis(bits, "plane"), reduce_axis(words, "word")

    def product(n: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        mine = weight(o, word)
        differ = tirx.popcount(data(n, plane * words + word) ^ mine).astype("int32")
        if encoding == "bipolar":
            value = tirx.min(in_channels - word.var * WORD, WORD).astype("int32") - 2 * differ
        else:
            value = tirx.popcount(mine).astype("int32") - differ
        return te.sum(value << plane.var.astype("int32"), axis=[plane, word])

    return te.compute([data.shape[0], extent(out)], product, name="bitserial_dense")


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def function(data: te.Tensor, weight: te.Tensor) -> te.Tensor:
        return te_bitserial_dense(
            data,
            weight,
            in_channels=integer(call, "in_channels", 1),
            bits=integer(call, "bits", 1, 4),
            encoding=choice(call, "encoding", ENCODINGS),
        )

    return primfunc(bb, "bitserial_dense", OUT_ELEMENTWISE_FUSABLE, function, call.args)


register(bitserial_dense, _infer, _legalise)
