"""Two binary convolutions side by side are one, on IR."""

from __future__ import annotations

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check, const
from tvm_insta.frontend import SourceLayer
from tvm_insta.passes.context import Context
from tvm_insta.passes.merge_parallel import NOTE, merge_parallel
from tvm_insta.passes.report import Layer, Report

LEFT, RIGHT = np.arange(4.0).reshape(4, 1, 1, 1), np.arange(4.0, 8.0).reshape(4, 1, 1, 1)
FIRST, SECOND, BOTH = (const(w, "uint32") for w in (LEFT, RIGHT, np.concatenate([LEFT, RIGHT])))
TWO, THREE = const(np.full(4, 2.0)), const(np.full(4, 3.0))
FACTORS = const(np.repeat([2.0, 3.0], 4))


def test_with_factors_and_a_shortcut_that_both_add():
    @I.ir_module
    class Before:
        @R.function
        def main(
            p: R.Tensor((1, 6, 6, 1), "uint32"), x: R.Tensor((1, 6, 6, 4), "float32")
        ) -> R.Tensor((1, 6, 6, 8), "float32"):
            with R.dataflow():
                c = R.insta.bitserial_conv2d(p, FIRST, in_channels=8, layers=["a"])
                d = R.insta.bitserial_conv2d(p, SECOND, in_channels=8, layers=["b"])
                cf = R.astype(c, "float32")
                df = R.astype(d, "float32")
                cm = R.multiply(cf, TWO)
                dm = R.multiply(df, THREE)
                ca = R.add(cm, x)
                da = R.add(dm, x)
                y = R.concat((ca, da), axis=3)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            p: R.Tensor((1, 6, 6, 1), "uint32"), x: R.Tensor((1, 6, 6, 4), "float32")
        ) -> R.Tensor((1, 6, 6, 8), "float32"):
            with R.dataflow():
                c = R.insta.bitserial_conv2d(p, BOTH, in_channels=8, layers=["a", "b"])
                f = R.astype(c, "float32")
                m = R.multiply(f, FACTORS)
                r = R.insta.repeat_channels(x, times=2)
                y = R.add(m, r)
                R.output(y)
            return y

    layers = [Layer(SourceLayer(name, "conv2d", "", 0, (), ())) for name in "abc"]
    check(merge_parallel, Before, Expected, Context(report=Report(layers)))
    assert [layer.notes for layer in layers] == [(NOTE,), (NOTE,), ()]
    assert [layer.together for layer in layers] == [("a", "b"), ("a", "b"), ()]


def test_other_strides_stay_apart():
    @I.ir_module
    class Before:
        @R.function
        def main(
            p: R.Tensor((1, 6, 6, 1), "uint32"), q: R.Tensor((1, 3, 3, 1), "uint32")
        ) -> R.Tensor((1, 3, 3, 8), "int32"):
            with R.dataflow():
                c = R.insta.bitserial_conv2d(p, FIRST, in_channels=8, strides=[2, 2], layers=["a"])
                d = R.insta.bitserial_conv2d(q, SECOND, in_channels=8, layers=["b"])
                y = R.concat((c, d), axis=3)
                R.output(y)
            return y

    check(merge_parallel, Before, Before)
