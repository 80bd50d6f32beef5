"""Packs are listed in their order; the module stays."""

from __future__ import annotations

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check, const
from tvm_insta.passes.context import Context
from tvm_insta.passes.record_packs import record_packs
from tvm_insta.passes.report import Pack

HALF = const(np.full((1, 1, 1, 1, 1), 0.5))


def test_constant_thresholds_and_computed_ones():
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 6, 6, 8), "float32"), t: R.Tensor((1, 1, 1, 1, 8), "float32")
        ) -> R.Tensor((1, 6, 6, 1), "uint32"):
            with R.dataflow():
                p = R.insta.threshold_pack(x, HALF, compare="gt", nan=1, site="a")
                q = R.insta.threshold_pack(x, t, site="b")
                y = R.bitwise_or(p, q)
                R.output(y)
            return y

    context = Context()
    check(record_packs, Before, Before, context)
    common = {"channels": 8, "bits": 1, "groups": 1, "pad": (0, 0, 0, 0)}
    assert context.report.packs == [
        Pack(
            **common,
            compare="gt",
            site="a",
            thresholds="0000003f",  # 0.5, little-endian
            threshold_shape=(1, 1, 1, 1, 1),
            nan=1,
        ),
        Pack(**common, compare="ge", site="b"),
    ]


def test_bytes():
    """They are one bit, one group, and the rows that only tiles read belong to the padding."""

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 9, 8, 32), "int8"):
            with R.dataflow():
                y = R.insta.threshold_signs(x, HALF, compare="lt", pad=[1, 1, 2, 1], site="a")
                R.output(y)
            return y

    context = Context()
    check(record_packs, Before, Before, context)
    assert context.report.packs == [
        Pack(
            channels=8,
            bits=1,
            groups=1,
            pad=(1, 1, 2, 1),
            compare="lt",
            site="a",
            thresholds="0000003f",
            threshold_shape=(1, 1, 1, 1, 1),
        )
    ]
