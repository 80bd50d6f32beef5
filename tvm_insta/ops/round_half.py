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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, te, tirx

from ._common import ELEMENTWISE, Dim
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
    name = _INTRINSICS[attributes.to]
    return te.compute(
        data.shape, lambda *at: tirx.call_intrin("float32", name, data(*at)), name="round_half"
    )


def _to_bfloat16(bits: tirx.Expr, number: _Number) -> tirx.Expr:
    nan = (bits & number(_SIGN - 1)) > number(_INFINITY)
    return tirx.Select(nan, bits, _without(bits, 16, number))


def _to_float16(bits: tirx.Expr, number: _Number) -> tirx.Expr:
    size = bits & number(_SIGN - 1)
    large = _without(size, 13, number)
    large = tirx.Select(large >= number(_TOO_LARGE), number(_INFINITY), large)
    moved = _bits(_float(size) + number(0.5, "float32"))
    steps = _as(_as(moved - number(_ONE_HALF), "int32"), "float32")
    small = _bits(steps * number(2.0**-24, "float32"))
    kept = tirx.Select(size < number(_SMALLEST_NORMAL), small, large)
    return tirx.Select(size > number(_INFINITY), bits, kept | (bits & number(_SIGN)))


def _without(bits: tirx.Expr, count: int, number: _Number) -> tirx.Expr:
    """Bits rounded to nearest, ties to even, the last `count` of them 0."""
    last = (bits >> number(count)) & number(1)
    return ((bits + number((1 << (count - 1)) - 1) + last) >> number(count)) << number(count)


def _lanes(x: tirx.Expr) -> int:
    return int(tvm.DataType(str(x.ty.dtype)).lanes)


def _typed(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _as(x: tirx.Expr, dtype: str) -> tirx.Expr:
    return x.astype(_typed(dtype, _lanes(x)))


def _bits(x: tirx.Expr) -> tirx.Expr:
    return tirx.reinterpret(_typed("uint32", _lanes(x)), x)


def _float(bits: tirx.Expr) -> tirx.Expr:
    return tirx.reinterpret(_typed("float32", _lanes(bits)), bits)


def _lowering(rounded: Callable[[tirx.Expr, _Number], tirx.Expr]) -> Callable[[tirx.Call], Any]:
    """Written out after everything is in its place, scalar or vector.

    Roundings behind each other become one expression. Were each written out in TE, its operand
    would stand several times in the next, and so on; and a name for it would be defined twice where
    two elements are read.
    """

    def lower(call: tirx.Call) -> tirx.Expr:
        (x,) = call.args
        lanes = _lanes(x)

        def number(value: float, dtype: str = "uint32") -> tirx.Expr:
            return tirx.const(value, _typed(dtype, lanes))

        bits = tirx.Var("bits", _typed("uint32", lanes))
        return tirx.Let(bits, _bits(x), _float(rounded(bits, number)))

    return lower


_Number = Callable[..., tirx.Expr]
_PURE = 1  # TVM's CallEffectKind
_INTRINSICS = {to: f"tirx.insta_round_{to}" for to in HALVES}
for _to, _rounded in (("bfloat16", _to_bfloat16), ("float16", _to_float16)):
    _name = _INTRINSICS[_to]
    tvm.ir.register_op_attr(_name, "TVectorizable", True)
    tvm.ir.register_op_attr(_name, "TCallEffectKind", _PURE)
    tvm.ir.register_op_attr(_name, "TScriptPrinterName", _name.removeprefix("tirx."))
    tirx.register_intrin_lowering(_name, target="default", f=_lowering(_rounded), level=10)

round_half = Operator(
    "round_half",
    [Argument("data", "float32", range(8))],
    RoundHalf,
    _type_of,
    te_round_half,
    pattern=ELEMENTWISE,
)
