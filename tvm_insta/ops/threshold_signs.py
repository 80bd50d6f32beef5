"""`insta.threshold_signs`: compare float activations with thresholds, and write +-1 bytes.

What `threshold_pack` is for words, this is for a binary convolution in AMX tiles, which multiplies
bytes: `bitserial_conv2d_signs` with image="bytes" reads the result as it is.

x [N, H, W, C] float32; thresholds [1, *B] float32 as those of `threshold_pack` with one bit. Result
[N, H+t+b, W+l+r, 32 * ceil(C / 32)] int8:

    signs[..., c] = +1 where x[..., c] <compare> thresholds[0, ..., c] holds, else -1

and 0 in the padding and behind the last channel. For NaN it is +1 with `nan` 1, else -1, see
`threshold_pack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax, te, tirx

from ._common import WORD, Dim, extent, known, words_for
from ._declare import Argument, Attributes, Operator, choice, integer, integers, text
from .threshold_pack import COMPARE, OPPOSITE, broadcast_index, expect_thresholds


@dataclass(frozen=True, kw_only=True)
class ThresholdSigns(Attributes):
    """See the module's docstring.

    Attributes:
        compare: "ge", "gt", "le" or "lt": x <compare> threshold gives +1.
        pad: pixels of 0 around the image: top, left, bottom, right.
        nan: 1 where NaN gives +1, 0 where it gives -1.
        site: which level tensor of the imported graph it is, a key of `Imported.sites`.
    """

    compare: str = choice(tuple(COMPARE), default="ge")
    pad: Sequence[int] = integers(4, low=0, default=(0, 0, 0, 0))
    nan: int = integer(low=0, default=0)
    site: str = text(default="")


def _type_of(
    call: relax.Call, attributes: ThresholdSigns, x: list[Dim], thresholds: list[Dim]
) -> relax.TensorType:
    expect_thresholds(call, x, thresholds, 1, attributes.nan)
    top, left, bottom, right = attributes.pad
    depth = words_for(known(x[3])) * WORD
    return relax.TensorType([x[0], x[1] + top + bottom, x[2] + left + right, depth], "int8")


def te_threshold_signs(
    x: te.Tensor,
    thresholds: te.Tensor,
    attributes: ThresholdSigns,
) -> te.Tensor:
    """TE of the operator: block "threshold_signs", then block "signs_pad" if there are zeros."""
    compare, nan, pad = attributes.compare, attributes.nan, attributes.pad
    plus, minus = tirx.const(1, "int8"), tirx.const(-1, "int8")
    batch, height, width, channels = x.shape
    depth = words_for(known(channels)) * WORD

    def sign(*element: tirx.Expr) -> tirx.Expr:
        value, threshold = x(*element), thresholds(0, *broadcast_index(thresholds, element))
        if nan:
            return tirx.Select(COMPARE[OPPOSITE[compare]](value, threshold), minus, plus)
        return tirx.Select(COMPARE[compare](value, threshold), plus, minus)

    signs = te.compute(
        [*map(extent, x.shape)], sign, name="threshold_signs", attrs={"schedule_rule": "insta_pack"}
    )
    if not any(pad) and depth == known(channels):
        return signs
    top, left, bottom, right = pad

    def surround(n: tirx.Expr, y: tirx.Expr, z: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        inside = tirx.all(
            y >= top, y < top + height, z >= left, z < left + width, c < known(channels)
        )
        value = signs(n, y - top, z - left, c)
        return tirx.if_then_else(inside, value, tirx.const(0, "int8"))

    return te.compute(
        [batch, height + top + bottom, width + left + right, extent(depth)],
        surround,
        name="signs_pad",
        attrs={"pad": list(pad)},
    )


threshold_signs = Operator(
    "threshold_signs",
    [Argument("x", "float32", 4, known=[-1]), Argument("thresholds", "float32", 5)],
    ThresholdSigns,
    _type_of,
    te_threshold_signs,
)
