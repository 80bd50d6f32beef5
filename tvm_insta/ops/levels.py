"""`insta.levels`: a tensor of few values, as a count of comparisons.

    result = base + step * #{ l : x <compare> thresholds[l] }

x [N, H, W, C], [N, C, H, W] or [N, C] float32; each threshold is float32 and broadcasts to x. The
front end writes it in front of binary layers; `passes.recognise` packs it with
`insta.threshold_pack`. For NaN the count is `nan`, see there. Result: the shape of x, float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from ._common import Dim, dims, fail
from ._declare import Argument, Attributes, Operator, choice, integer, number, text
from .threshold_pack import COMPARE, OPPOSITE


@dataclass(frozen=True, kw_only=True)
class Levels(Attributes):
    """See the module's docstring.

    Attributes:
        base: the value where no comparison holds.
        step: what each comparison that holds adds, above 0.
        compare: "ge", "gt", "le" or "lt".
        layout: of a rank-4 tensor, "NCHW" or "NHWC"; `passes.to_nhwc` leaves only the latter.
        nan: how many comparisons count as held for NaN, 0..number of thresholds.
        site: which level tensor of the imported graph it is, a key of `Imported.sites`.
    """

    base: float = number()
    step: float = number(above=0)
    compare: str = choice(tuple(COMPARE), default="ge")
    layout: str = choice(("NCHW", "NHWC"), default="NHWC")
    nan: int = integer(low=0, default=0)
    site: str = text(default="")


def _type_of(call: relax.Call, attributes: Levels, x: list[Dim]) -> relax.TensorType:
    count = len(call.args) - 1
    for at in range(count):
        dims(call, at + 1, f"threshold {at}", range(len(x) + 1), ("float32",))
    if not count:
        fail(call, "there is no threshold; pass one per level")
    if attributes.nan > count:
        fail(call, f"nan is {attributes.nan}; pass an integer in 0..{count}")
    return relax.TensorType(x, "float32")


_RELAX = {
    "ge": relax.op.greater_equal,
    "gt": relax.op.greater,
    "le": relax.op.less_equal,
    "lt": relax.op.less,
}


def _legalise(bb: relax.BlockBuilder, call: relax.Call, attributes: Levels) -> relax.Expr:
    x, *thresholds = call.args
    name, nan = attributes.compare, attributes.nan
    one, zero = (relax.const(v, "float32") for v in (1.0, 0.0))
    count = None
    for at, threshold in enumerate(thresholds):
        if at < nan:
            fails = bb.emit(_RELAX[OPPOSITE[name]](x, threshold))
            holds = bb.emit(relax.op.where(fails, zero, one))
        else:
            holds = bb.emit(relax.op.astype(bb.emit(_RELAX[name](x, threshold)), "float32"))
        count = holds if count is None else bb.emit(relax.op.add(count, holds))
    step = relax.const(attributes.step, "float32")
    base = relax.const(attributes.base, "float32")
    return relax.op.add(bb.emit(relax.op.multiply(count, step)), base)


levels = Operator(
    "levels", [Argument("x", "float32", (2, 4))], Levels, _type_of, legalise=_legalise
)
