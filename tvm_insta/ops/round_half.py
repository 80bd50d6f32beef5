"""`insta.round_half`: float32 numbers rounded to half precision, which stay float32.

data of any shape, float32; result of the same shape, float32: each number is the nearest one of
bfloat16 or float16, ties to even; what is too large is infinity, NaN stays NaN.

A network in half precision computes each operator in float32 and rounds its result. Rounded numbers
in float32 need no instruction that only some CPUs have, and every pass and kernel knows the type.
TVM 0.27's own cast to bfloat16 cuts the lower bits off.

bfloat16 is the upper half of a float32's bits: half a step is added to them, less one where the
last bit that is kept is 0. float16 keeps 10 bits of the fraction, so 13 go. Below 2**-14 its step
is 2**-24, which is the step of float32 between 1/2 and 1: |x| + 1/2 rounds to it, and the number of
steps is the difference of the bits. All of it is exact in integers.

A kernel holds one rounding at most, with what is fused before and behind it: the number stands in
its expression several times, and roundings of roundings would be longer than any compiler bears.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax, te, tirx

from ._common import OUT_ELEMENTWISE_FUSABLE, Dim
from ._declare import Argument, Attributes, Operator, choice

HALVES = ("bfloat16", "float16")

_SIGN, _INFINITY = 0x80000000, 0x7F800000
_SMALLEST_NORMAL, _TOO_LARGE = 0x38800000, 0x47800000  # of float16: 2**-14 and 2**16, as float32
_ONE_HALF = 0x3F000000


@dataclass(frozen=True, kw_only=True)
class RoundHalf(Attributes):
    """See the module's docstring.

    Attributes:
        to: the type whose numbers are the result.
    """

    to: str = choice(HALVES)


def _type_of(_: relax.Call, attributes: RoundHalf, data: list[Dim]) -> relax.TensorType:
    return relax.TensorType(data, "float32")


def te_round_half(data: te.Tensor, attributes: RoundHalf) -> te.Tensor:
    """TE of the operator: one block, "round_half"."""
    rounded = _to_bfloat16 if attributes.to == "bfloat16" else _to_float16
    return te.compute(data.shape, lambda *at: rounded(data(*at)), name="round_half")


def _bits(value: int) -> tirx.Expr:
    return tirx.const(value, "uint32")


def _number(bits: tirx.Expr) -> tirx.Expr:
    return tirx.reinterpret("float32", bits)


def _without(bits: tirx.Expr, count: int) -> tirx.Expr:
    """Bits rounded to nearest, ties to even, the last `count` of them 0."""
    last = (bits >> _bits(count)) & _bits(1)
    return ((bits + _bits((1 << (count - 1)) - 1) + last) >> _bits(count)) << _bits(count)


def _to_bfloat16(x: tirx.Expr) -> tirx.Expr:
    bits = tirx.reinterpret("uint32", x)
    nan = (bits & _bits(_SIGN - 1)) > _bits(_INFINITY)
    return tirx.Select(nan, x, _number(_without(bits, 16)))


def _to_float16(x: tirx.Expr) -> tirx.Expr:
    bits = tirx.reinterpret("uint32", x)
    size = bits & _bits(_SIGN - 1)
    large = _without(size, 13)
    large = tirx.Select(large >= _bits(_TOO_LARGE), _bits(_INFINITY), large)
    moved = tirx.reinterpret("uint32", _number(size) + tirx.const(0.5, "float32"))
    steps = (moved - _bits(_ONE_HALF)).astype("int32").astype("float32")
    small = tirx.reinterpret("uint32", steps * tirx.const(2.0**-24, "float32"))
    kept = tirx.Select(size < _bits(_SMALLEST_NORMAL), small, large)
    return tirx.Select(size > _bits(_INFINITY), x, _number(kept | (bits & _bits(_SIGN))))


round_half = Operator(
    "round_half",
    [Argument("data", "float32", range(8))],
    RoundHalf,
    _type_of,
    te_round_half,
    pattern=OUT_ELEMENTWISE_FUSABLE,
)
