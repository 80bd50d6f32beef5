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

from collections.abc import Sequence

from tvm import relax, te, tirx

from ._common import (
    OUT_ELEMENTWISE_FUSABLE,
    WORD,
    choice,
    expect_dim,
    expect_int32,
    extent,
    fail,
    integer,
    make_call,
    primfunc,
    reduce_axis,
    register,
    words_for,
)
from .product import factors

PRODUCT_ENCODINGS = ("bipolar", "unsigned", "ternary")


def bitserial_product(
    left: relax.Expr,
    right: relax.Expr,
    *,
    in_channels: int,
    left_bits: int = 1,
    right_bits: int = 1,
    left_encoding: str = "bipolar",
    right_encoding: str = "bipolar",
    layers: Sequence[str] = (),
) -> relax.Call:
    """Build the call; shapes and meaning are in the module's docstring.

    Args:
        left: [N, G, M, left_bits * Kw] uint32.
        right: [N, G, O, right_bits * Kw] uint32.
        in_channels: K, the numbers of a row.
        left_bits: of a code of left, 1..4.
        right_bits: of a code of right, 1..4.
        left_encoding: "bipolar", "unsigned" or "ternary".
        right_encoding: the same of right.
        layers: names of the layers that are computed.

    Returns:
        A call of type [N, G, M, O] int32.
    """
    return make_call(
        "bitserial_product",
        [left, right],
        in_channels=in_channels,
        left_bits=left_bits,
        right_bits=right_bits,
        left_encoding=left_encoding,
        right_encoding=right_encoding,
        layers=list(layers),
    )


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    shapes = factors(call, "uint32")
    words, together = words_for(integer(call, "in_channels", 1)), 0
    for name, shape in zip(("left", "right"), shapes, strict=True):
        bits = integer(call, f"{name}_bits", 1, 4)
        encoding = choice(call, f"{name}_encoding", PRODUCT_ENCODINGS)
        if encoding == "ternary" and bits != 2:
            fail(call, f"{name}_bits is {bits}; pass 2 for ternary codes")
        expect_dim(call, (name, 3), shape[3], bits * words, "bits * words of in_channels")
        together += bits
    expect_int32(call, together, words, 1)
    left, right = shapes
    return relax.TensorType([*left[:3], right[2]], "int32")


def te_bitserial_product(
    left: te.Tensor,
    right: te.Tensor,
    *,
    in_channels: int,
    bits: Sequence[int],
    encodings: Sequence[str],
) -> te.Tensor:
    """TE of the operator: one reduce block "bitserial_product"."""
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


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def function(left: te.Tensor, right: te.Tensor) -> te.Tensor:
        return te_bitserial_product(
            left,
            right,
            in_channels=integer(call, "in_channels", 1),
            bits=[integer(call, f"{name}_bits", 1, 4) for name in ("left", "right")],
            encodings=[
                choice(call, f"{name}_encoding", PRODUCT_ENCODINGS) for name in ("left", "right")
            ],
        )

    return primfunc(bb, "bitserial_product", OUT_ELEMENTWISE_FUSABLE, function, call.args)


register(bitserial_product, _infer, _legalise)
