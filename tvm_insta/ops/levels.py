"""`insta.levels`: a tensor of few values, as a count of comparisons.

    result = base + step * #{ l : x <compare> thresholds[l] }

x [N, H, W, C], [N, C, H, W] or [N, C] float32; each threshold is float32 and broadcasts to x. The
front end writes it in front of binary layers; `passes.recognise` packs it with
`insta.threshold_pack`. For NaN the count is `nan`, see there. Result: the shape of x, float32.
"""

from __future__ import annotations

from tvm import relax

from ._common import choice, dims, fail, integer, make_call, register
from .threshold_pack import COMPARE, OPPOSITE


def levels(
    x: relax.Expr,
    *thresholds: relax.Expr,
    base: float,
    step: float,
    compare: str = "ge",
    layout: str = "NHWC",
    nan: int = 0,
    site: str = "",
) -> relax.Call:
    """Build the call.

    Args:
        x: rank 2 or 4, float32.
        thresholds: one per level, each broadcastable to x.
        base: the value where no comparison holds.
        step: what each comparison that holds adds, above 0.
        compare: "ge", "gt", "le" or "lt".
        layout: of a rank-4 tensor, "NCHW" or "NHWC"; `passes.to_nhwc` leaves only the latter.
        nan: how many comparisons count as held for NaN, 0..len(thresholds).
        site: which level tensor of the imported graph it is, a key of `Imported.sites`.
    """
    return make_call(
        "levels",
        [x, *thresholds],
        base=float(base),
        step=float(step),
        compare=compare,
        layout=layout,
        nan=nan,
        site=site,
    )


def _infer(call: relax.Call, _: relax.BlockBuilder) -> relax.TensorType:
    x = dims(call, 0, "x", (2, 4), "float32")
    for at in range(1, len(call.args)):
        dims(call, at, f"threshold {at - 1}", range(len(x) + 1), "float32")
    if len(call.args) < 2:
        fail(call, "there is no threshold; pass one per level")
    choice(call, "compare", tuple(COMPARE))
    choice(call, "layout", ("NCHW", "NHWC"))
    integer(call, "nan", 0, len(call.args) - 1)
    if not float(call.attrs["step"]) > 0:
        fail(call, f"step is {call.attrs['step']}; pass a number above 0")
    return relax.TensorType(x, "float32")


_RELAX = {
    "ge": relax.op.greater_equal,
    "gt": relax.op.greater,
    "le": relax.op.less_equal,
    "lt": relax.op.less,
}


def _legalise(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, *thresholds = call.args
    name = choice(call, "compare", tuple(COMPARE))
    nan, (one, zero) = integer(call, "nan", 0), (relax.const(v, "float32") for v in (1.0, 0.0))
    count = None
    for at, threshold in enumerate(thresholds):
        if at < nan:
            fails = bb.emit(_RELAX[OPPOSITE[name]](x, threshold))
            holds = bb.emit(relax.op.where(fails, zero, one))
        else:
            holds = bb.emit(relax.op.astype(bb.emit(_RELAX[name](x, threshold)), "float32"))
        count = holds if count is None else bb.emit(relax.op.add(count, holds))
    step = relax.const(float(call.attrs["step"]), "float32")
    base = relax.const(float(call.attrs["base"]), "float32")
    return relax.op.add(bb.emit(relax.op.multiply(count, step)), base)


register(levels, _infer, _legalise)
