"""`insta.bitserial_product`: rows of packed levels times rows of packed levels.

left [N, G, M, left_bits * Kw] uint32 and right [N, G, O, right_bits * Kw] uint32 as
`threshold_pack` writes them for [N, G, M, K] and [N, G, O, K], Kw = ceil(K / 32). Result
[N, G, M, O] int32, for each n and g the exact ``left @ right^T`` of the integers that the codes
mean:

    "bipolar"    2 * code - (2**bits - 1)
    "unsigned"   code
    "ternary"    2 * code - 2, of the two-bit codes 0, 1, 2

Every encoding is a sum of planes of bits, +-1 or 0/1, times powers of two. Bit ``p`` of a code is a
plane; ternary codes are the sum of the planes ``code >= 1`` and ``code >= 2`` of +-1. With words a
and b of two planes of which ``valid`` bits are channels, the sum of the products is

    +-1 and +-1: valid - 2 popcount(a ^ b)        0/1 and +-1: 2 popcount(a & b) - popcount(a)
    0/1 and 0/1: popcount(a & b)

Bits beyond the last channel are 0 in both, and count nothing in any of the three.
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
    fail,
    reduce_axis,
    words_for,
)
from ._declare import LayerAttributes, Operator, choice, integer
from .product import expect_same_batch, factors

PRODUCT_ENCODINGS = ("bipolar", "unsigned", "ternary")


@dataclass(frozen=True, kw_only=True)
class BitserialProduct(LayerAttributes):
    """See the module's docstring.

    Attributes:
        in_channels: K, the numbers of a row.
        left_bits: of a code of left.
        right_bits: of a code of right.
        left_encoding: "bipolar", "unsigned" or "ternary".
        right_encoding: the same of right.
    """

    in_channels: int = integer(low=1)
    left_bits: int = integer(low=1, high=4, default=1)
    right_bits: int = integer(low=1, high=4, default=1)
    left_encoding: str = choice(PRODUCT_ENCODINGS, default="bipolar")
    right_encoding: str = choice(PRODUCT_ENCODINGS, default="bipolar")


def _type_of(
    call: relax.Call, attributes: BitserialProduct, left: list[Dim], right: list[Dim]
) -> relax.TensorType:
    expect_same_batch(call, left, right)
    words = words_for(attributes.in_channels)
    for name, shape, bits, encoding in (
        ("left", left, attributes.left_bits, attributes.left_encoding),
        ("right", right, attributes.right_bits, attributes.right_encoding),
    ):
        if encoding == "ternary" and bits != 2:
            fail(call, f"{name}_bits is {bits}; pass 2 for ternary codes")
        expect_dim(call, (name, 3), shape[3], bits * words, "bits * words of in_channels")
    expect_int32(call, attributes.left_bits + attributes.right_bits, words, 1)
    return relax.TensorType([*left[:3], right[2]], "int32")


def te_bitserial_product(
    left: te.Tensor,
    right: te.Tensor,
    attributes: BitserialProduct,
) -> te.Tensor:
    """TE of the operator: one reduce block "bitserial_product"."""
    in_channels, bits = attributes.in_channels, (attributes.left_bits, attributes.right_bits)
    encodings = (attributes.left_encoding, attributes.right_encoding)
    words = words_for(in_channels)
    word = reduce_axis(words, "word")
    valid = tirx.min(in_channels - word.var * WORD, WORD).astype("int32")

    def summed(n: tirx.Expr, g: tirx.Expr, m: tirx.Expr, o: tirx.Expr) -> tirx.Expr:
        mine, yours = (
            _planes([tensor(n, g, row, p * words + word) for p in range(own)], encoding)
            for tensor, row, own, encoding in zip(
                (left, right), (m, o), bits, encodings, strict=True
            )
        )
        unsigned = (encodings[0] == "unsigned", encodings[1] == "unsigned")
        total = tirx.const(0, "int32")
        for a, first in mine:
            for b, second in yours:
                value = _dot(a, b, unsigned, valid)
                total = total + (value << tirx.const(first + second, "int32"))
        return te.sum(total, axis=word)

    shape = [*left.shape[:2], *(extent(int(tensor.shape[2])) for tensor in (left, right))]
    return te.compute(shape, summed, name="bitserial_product")


def _planes(words: list[tirx.Expr], encoding: str) -> list[tuple[tirx.Expr, int]]:
    """Words of planes, each with the power of two that it is multiplied by."""
    if encoding == "ternary":
        low, high = words
        return [(low | high, 0), (high, 0)]
    return [(word, plane) for plane, word in enumerate(words)]


def _dot(a: tirx.Expr, b: tirx.Expr, unsigned: tuple[bool, bool], valid: tirx.Expr) -> tirx.Expr:
    """The products of two planes, summed over a word."""

    def count(word: tirx.Expr) -> tirx.Expr:
        return tirx.popcount(word).astype("int32")

    if unsigned == (True, True):
        return count(a & b)
    if unsigned == (False, False):
        return valid - 2 * count(a ^ b)
    return 2 * count(a & b) - count(a if unsigned[0] else b)


bitserial_product = Operator(
    "bitserial_product",
    factors("uint32"),
    BitserialProduct,
    _type_of,
    te_bitserial_product,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
