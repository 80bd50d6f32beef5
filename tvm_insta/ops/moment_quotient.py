"""`insta.moment_quotient`: one moment over another.

moments [N, 2, C] float32, the two of `insta.moments`; result [N, C] float32:

    out[n, c] = moments[n, 1, c] / (moments[n, 0, c] + offset)

With the orders 2 and 3 this is the statistic E[X^3] / (E[X^2] + offset) of `tvm_insta.nn`
("third_over_second", reconstructed). It is an operator, not arithmetic, so that no pass computes it
for each pixel that is compared with what is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax, te, tirx

from ._common import Dim, expect_dim
from ._declare import Argument, Attributes, Operator, number


@dataclass(frozen=True, kw_only=True)
class MomentQuotient(Attributes):
    """See the module's docstring.

    Attributes:
        offset: added to the divisor, rounded to float32.
    """

    offset: float = number()


def _type_of(call: relax.Call, _: MomentQuotient, moments: list[Dim]) -> relax.TensorType:
    expect_dim(call, ("moments", 1), moments[1], 2, "dividend and divisor")
    return relax.TensorType([moments[0], moments[2]], "float32")


def te_moment_quotient(moments: te.Tensor, attributes: MomentQuotient) -> te.Tensor:
    """TE of the operator: one block, "moment_quotient"."""
    batch, _, channels = moments.shape
    offset = tirx.const(attributes.offset, "float32")
    return te.compute(
        [batch, channels],
        lambda n, c: moments(n, 1, c) / (moments(n, 0, c) + offset),
        name="moment_quotient",
    )


moment_quotient = Operator(
    "moment_quotient",
    [Argument("moments", "float32", 3, known=[1, 2])],
    MomentQuotient,
    _type_of,
    te_moment_quotient,
)
