"""`insta.levels`: a tensor of few values, as a count of comparisons.

    result = base + step * #{ l : x <compare> thresholds[l] }

x [N, H, W, C], [N, C, H, W] or [N, C] float32; each threshold is float32 and broadcasts to x. The
front end writes it in front of binary layers; `passes.recognise` packs it with
`insta.threshold_pack`. A comparison with NaN is false. Result: the shape of x, float32.
"""

from __future__ import annotations

from tvm import relax

from ._common import choice, dims, fail, make_call, register
from .threshold_pack import COMPARE


def levels(
    x: relax.Expr,
    *thresholds: relax.Expr,
    base: float,
    step: float,
    compare: str = "ge",
    layout: str = "NHWC",
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
        site: which level tensor of the imported graph it is, a key of `Imported.sites`.
    """
    return make_call(
        "levels",
        [x, *thresholds],
        base=float(base),
        step=float(step),
        compare=compare,
        layout=layout,
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
    compare = _RELAX[choice(call, "compare", tuple(COMPARE))]
    count = None
    for threshold in thresholds:
        holds = bb.emit(relax.op.astype(bb.emit(compare(x, threshold)), "float32"))
        count = holds if count is None else bb.emit(relax.op.add(count, holds))
    step = relax.const(float(call.attrs["step"]), "float32")
    base = relax.const(float(call.attrs["base"]), "float32")
    return relax.op.add(bb.emit(relax.op.multiply(count, step)), base)


register(levels, _infer, _legalise)
