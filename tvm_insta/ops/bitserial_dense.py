"""`insta.bitserial_dense`: a fully connected layer of multi-bit activations and +-1 weights.

data [N, bits * Cw] uint32 as `threshold_pack` writes it for [N, C], Cw = ceil(C / 32); weight
[O, Cw] uint32, bit 1 = +1, bit 0 = -1. Result [N, O] int32, the exact dot product; the values of
the codes are those of `bitserial_conv2d`, of which this is the 1 x 1 case on one pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    WORD,
    Dim,
    expect_dim,
    expect_int32,
    extent,
    known,
    reduce_axis,
    words_for,
)
from ._declare import Argument, LayerAttributes, Operator, choice, integer
from .bitserial_conv2d import ENCODINGS


@dataclass(frozen=True, kw_only=True)
class BitserialDense(LayerAttributes):
    """See the module's docstring.

    Attributes:
        in_channels: C, the input features.
        bits: bits of an activation.
        encoding: "bipolar" or "unsigned".
    """

    in_channels: int = integer(low=1)
    bits: int = integer(low=1, high=4, default=1)
    encoding: str = choice(ENCODINGS, default="bipolar")


def _type_of(
    call: relax.Call, attributes: BitserialDense, data: list[Dim], weight: list[Dim]
) -> relax.TensorType:
    channels, bits = attributes.in_channels, attributes.bits
    words = words_for(channels)
    expect_dim(call, ("weight", 1), weight[1], words, f"words of in_channels={channels}")
    expect_dim(call, ("data", 1), data[1], bits * words, "bits * words of in_channels")
    expect_int32(call, bits, words, 1)
    return relax.TensorType([data[0], weight[0]], "int32")


def te_bitserial_dense(data: te.Tensor, weight: te.Tensor, attributes: BitserialDense) -> te.Tensor:
    """TE of the operator: one reduce block "bitserial_dense"."""
    out, words = map(known, weight.shape)
    plane, word = reduce_axis(attributes.bits, "plane"), reduce_axis(words, "word")

    def product(n: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        mine = weight(o, word)
        differ = tirx.popcount(data(n, plane * words + word) ^ mine).astype("int32")
        if attributes.encoding == "bipolar":
            held = tirx.min(attributes.in_channels - word.var * WORD, WORD)
            value = held.astype("int32") - 2 * differ
        else:
            value = tirx.popcount(mine).astype("int32") - differ
        return te.sum(value << plane.var.astype("int32"), axis=[plane, word])

    return te.compute([data.shape[0], extent(out)], product, name="bitserial_dense")


bitserial_dense = Operator(
    "bitserial_dense",
    [Argument("data", "uint32", 2, known=[1]), Argument("weight", "uint32", 2, known=[0, 1])],
    BitserialDense,
    _type_of,
    te_bitserial_dense,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
