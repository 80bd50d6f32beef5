"""`insta.threshold_pack`: compare float activations with thresholds and pack the bits.

x [N, H, W, C] or [N, C] float32; thresholds [2**bits - 1, *B] float32, where every dimension of B
is 1 or that of x: [1, 1, 1, 1, C] is a constant RSign threshold per channel, [1, N, 1, 1, C] an
instance-aware one. The code of an element is the number of thresholds that hold:

    code[..., c] = #{ l : x[..., c] <compare> thresholds[l, ..., c] }

so 1-bit codes are the sign bits of a binary network (bit 1 = +1). The code of NaN is `nan`, by
default 0: a comparison with NaN is false. The first `nan` comparisons are done as `not` of their
opposites, `not (x < t)` for `x >= t`, which is another function of NaN only.

Result [N, H+t+b, W+l+r, bits * groups * Cwg] uint32 with Cwg = ceil((C / groups) / 32):
word (plane * groups + group) * Cwg + w holds bit `plane` of the codes of channels
32 w .. 32 w + 31 of the group, channel i in bit i % 32. Bits beyond the last channel are 0, and so
are the words of the padding, which `bitserial_conv2d_blocked` relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import relax, te, tirx

from ._common import (
    WORD,
    Dim,
    expect_dim,
    expect_divisible,
    extent,
    fail,
    known,
    reduce_axis,
    same,
    words_for,
)
from ._declare import Argument, Attributes, Operator, choice, integer, integers, text

COMPARE: dict[str, Callable[[tirx.Expr, tirx.Expr], tirx.Expr]] = {
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "le": lambda a, b: a <= b,
    "lt": lambda a, b: a < b,
}
OPPOSITE = {"ge": "lt", "gt": "le", "le": "gt", "lt": "ge"}
"""By name, the comparison that holds where another does not, NaN excepted."""


@dataclass(frozen=True, kw_only=True)
class ThresholdPack(Attributes):
    """See the module's docstring.

    Attributes:
        bits: bits of an activation.
        compare: "ge", "gt", "le" or "lt": x <compare> threshold sets a level.
        groups: channel groups of the convolution that reads the result; each starts a new word.
        pad: zero words around the image: top, left, bottom, right.
        nan: the code of NaN, 0..2**bits - 1.
        site: which level tensor of the imported graph is packed, a key of `Imported.sites`.
    """

    bits: int = integer(low=1, high=4, default=1)
    compare: str = choice(tuple(COMPARE), default="ge")
    groups: int = integer(low=1, default=1)
    pad: Sequence[int] = integers(4, low=0, default=(0, 0, 0, 0))
    nan: int = integer(low=0, default=0)
    site: str = text(default="")


def _type_of(
    call: relax.Call, attributes: ThresholdPack, x: list[Dim], thresholds: list[Dim]
) -> relax.TensorType:
    bits, groups = attributes.bits, attributes.groups
    channels = known(x[-1])
    expect_thresholds(call, x, thresholds, bits, attributes.nan)
    expect_divisible(call, "channels of x", channels, groups)
    words = bits * groups * words_for(channels // groups)
    top, left, bottom, right = pad = attributes.pad
    if len(x) == 2:
        if any(pad):
            fail(call, f"pad is {list(pad)}, but x has no image to pad; pass [0, 0, 0, 0]")
        return relax.TensorType([x[0], words], "uint32")
    return relax.TensorType([x[0], x[1] + top + bottom, x[2] + left + right, words], "uint32")


def expect_thresholds(
    call: relax.Call, x: list[Dim], thresholds: list[Dim], bits: int, nan: int
) -> None:
    """Check that thresholds [2**bits - 1, *B] broadcast to x, and the code of NaN."""
    levels = 2**bits - 1
    if len(thresholds) != len(x) + 1:
        fail(call, f"thresholds has rank {len(thresholds)}; pass rank {len(x) + 1}, one above x")
    if nan > levels:
        fail(call, f"nan is {nan}; pass an integer in 0..{levels}")
    expect_dim(call, ("thresholds", 0), thresholds[0], levels, f"2**bits - 1 for bits={bits}")
    for axis, (got, full) in enumerate(zip(thresholds[1:], x, strict=True), start=1):
        if not same(got, 1) and not same(got, full):
            fail(
                call,
                f"dimension {axis} of thresholds is {got}, but must be 1 or {full} "
                f"(dimension {axis - 1} of x)",
            )


def broadcast_index(thresholds: te.Tensor, element: Sequence[tirx.Expr]) -> list[tirx.Expr]:
    """Where thresholds [L, *B] of an element of x lie: a broadcast dimension is read at 0."""
    dims = zip(thresholds.shape[1:], element, strict=True)
    return [0 if same(dim, 1) else at for dim, at in dims]


def te_threshold_pack(
    x: te.Tensor,
    thresholds: te.Tensor,
    attributes: ThresholdPack,
) -> te.Tensor:
    """TE of the operator: reduce block "threshold_pack", then block "pack_pad" if there is padding.

    The padding is a block of its own, so that the reduction keeps a rectangular domain which a
    schedule can vectorise; the copied words are a 32nd of the input.
    """
    bits, groups, pad = attributes.bits, attributes.groups, attributes.pad
    compare, nan = attributes.compare, attributes.nan
    *outer_shape, channels = x.shape
    per_group = known(channels) // groups
    if per_group % WORD == 0:
        # Groups of whole words lie as one: word i has channels 32 * i to 32 * i + 31.
        per_group, groups = per_group * groups, 1
    words = words_for(per_group)
    bit = reduce_axis(WORD, "bit")
    zero, one = tirx.const(0, "uint32"), tirx.const(1, "uint32")

    def pack(*index: tirx.Expr) -> tirx.Expr:
        *outer, word = index
        inner = (word if bits * groups == 1 else word % words) * WORD + bit
        channel = inner if groups == 1 else (word // words % groups) * per_group + inner
        element = [*outer, channel]
        where = broadcast_index(thresholds, element)
        value = x(*element)
        place = bit.var.astype("uint32")

        def counted(n: int, unit: tirx.Expr) -> tirx.Expr:
            threshold = thresholds(n, *where)
            if n < nan:
                return tirx.Select(COMPARE[OPPOSITE[compare]](value, threshold), zero, unit)
            return tirx.Select(COMPARE[compare](value, threshold), unit, zero)

        if bits == 1:
            shifted = counted(0, one << place)
        else:
            code = sum((counted(n, one) for n in range(1, 2**bits - 1)), counted(0, one))
            plane = (word // (groups * words)).astype("uint32")
            shifted = ((code >> plane) & one) << place
        if per_group % WORD:
            # Not Select: x must not be read beyond the last channel.
            shifted = tirx.if_then_else(inner < per_group, shifted, zero)
        return te.sum(shifted, axis=bit)

    packed = te.compute(
        [*map(extent, outer_shape), extent(bits * groups * words)],
        pack,
        name="threshold_pack",
        attrs={"schedule_rule": "insta_pack"},
    )
    if not any(pad):
        return packed
    top, left, bottom, right = pad
    batch, height, width = outer_shape

    def surround(n: tirx.Expr, y: tirx.Expr, z: tirx.Expr, word: tirx.Expr) -> tirx.Expr:
        inside = tirx.all(y >= top, y < top + height, z >= left, z < left + width)
        return tirx.if_then_else(inside, packed(n, y - top, z - left, word), zero)

    return te.compute(
        [batch, height + top + bottom, width + left + right, packed.shape[3]],
        surround,
        name="pack_pad",
        attrs={"pad": list(pad)},
    )


threshold_pack = Operator(
    "threshold_pack",
    [Argument("x", "float32", (2, 4), known=[-1]), Argument("thresholds", "float32", (3, 5))],
    ThresholdPack,
    _type_of,
    te_threshold_pack,
)
