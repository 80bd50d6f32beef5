"""`insta.instance_threshold`: from a statistic of the activation to its thresholds.

m [N, C] float32 is a statistic per instance and channel (the third raw moment in INSTA-BNN);
a, b [C]. With the squeeze-and-excitation part also w1 [R, C], b1 [R], w2 [C, R], b2 [C], all
float32. Result [N, C] float32:

    a * m + b                                         INSTA-Th   (m, a, b)
    a * m + b + tanh(w2 @ relu(w1 @ m + b1) + b2)     INSTA-Th+  (m, a, b, w1, b1, w2, b2)

The equations are reconstructed: the paper (Lee et al., ICCV 2023, arXiv 2204.07439) describes the
modules, no code of the authors is public. Sums run over channels in ascending order in float32.
"""

from __future__ import annotations

from tvm import relax, te, tirx

from ._common import (
    Dim,
    dims,
    expect_dim,
    expect_known,
    extent,
    fail,
    known,
    reduce_axis,
)
from ._declare import Argument, Attributes, Operator


def _type_of(call: relax.Call, _: Attributes, m: list[Dim]) -> relax.TensorType:
    if len(call.args) not in (3, 7):
        fail(call, f"got {len(call.args)} arguments; pass m, a, b or m, a, b, w1, b1, w2, b2")
    channels, why = m[1], f"m has {m[1]} channels"
    wanted: list[tuple[str, list[Dim]]] = [("a", [channels]), ("b", [channels])]
    if len(call.args) == 7:
        w1 = dims(call, 3, "w1", (2,), ("float32",))
        expect_known(call, "w1", w1, (0,))
        hidden = w1[0]
        why += f", w1 has {hidden} rows"
        wanted += [
            ("w1", [hidden, channels]),
            ("b1", [hidden]),
            ("w2", [channels, hidden]),
            ("b2", [channels]),
        ]
    for index, (name, shape) in enumerate(wanted, start=1):
        got = dims(call, index, name, (len(shape),), ("float32",))
        for axis, (extent_got, extent_wanted) in enumerate(zip(got, shape, strict=True)):
            expect_dim(call, (name, axis), extent_got, extent_wanted, why)
    return relax.TensorType(m, "float32")


def te_instance_threshold(
    m: te.Tensor, a: te.Tensor, b: te.Tensor, *excitation: te.Tensor
) -> te.Tensor:
    """TE of the operator: block "instance_threshold", before it "se_*" blocks with excitation."""
    shape = m.shape
    if not excitation:
        return te.compute(shape, lambda n, c: a(c) * m(n, c) + b(c), name="instance_threshold")
    w1, b1, w2, b2 = excitation
    hidden, channels = known(w1.shape[0]), known(w1.shape[1])
    c_in, r_in = reduce_axis(channels, "c_in"), reduce_axis(hidden, "r_in")
    squeezed = te.compute(
        [shape[0], extent(hidden)],
        lambda n, r: te.sum(w1(r, c_in) * m(n, c_in), axis=c_in),
        name="se_squeeze",
    )
    zero = tirx.const(0.0, "float32")
    relu = te.compute(
        squeezed.shape, lambda n, r: tirx.max(squeezed(n, r) + b1(r), zero), name="se_relu"
    )
    excited = te.compute(
        shape, lambda n, c: te.sum(w2(c, r_in) * relu(n, r_in), axis=r_in), name="se_excite"
    )
    return te.compute(
        shape,
        lambda n, c: a(c) * m(n, c) + b(c) + tirx.tanh(excited(n, c) + b2(c)),
        name="instance_threshold",
    )


instance_threshold = Operator(
    "instance_threshold",
    [Argument("m", "float32", 2, known=[1])],
    Attributes,
    _type_of,
    te_instance_threshold,
)
