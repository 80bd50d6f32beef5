"""The layout pass on IR: one transposition in, one out, and none between."""

from __future__ import annotations

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check, const
from tvm_insta.passes.to_nhwc import to_nhwc

WEIGHT = np.arange(2 * 3 * 3 * 3, dtype=np.float32).reshape(2, 3, 3, 3)
FIRST, LAST = const(WEIGHT), const(WEIGHT.transpose(0, 2, 3, 1))


def test_a_convolution_and_what_is_behind_it():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                c = R.insta.convolution(x, FIRST, padding=[1, 1, 1, 1], layers=["conv"])
                r = R.nn.relu(c)
                y = R.nn.max_pool2d(r, pool_size=[2, 2], strides=[2, 2])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 2, 4, 4), "float32"):
            with R.dataflow():
                t = R.permute_dims(x, axes=[0, 2, 3, 1])
                c = R.insta.conv2d(t, LAST, padding=[1, 1, 1, 1], layers=["conv"])
                r = R.nn.relu(c)
                p = R.nn.max_pool2d(r, pool_size=[2, 2], strides=[2, 2], layout="NHWC")
                y = R.permute_dims(p, axes=[0, 3, 1, 2])
                R.output(y)
            return y

    check(to_nhwc, Before, Expected)


def test_level_tensors_and_their_thresholds():
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 3, 8, 8), "float32"), t: R.Tensor((3, 1, 1), "float32")
        ) -> R.Tensor((1, 3, 8, 8), "float32"):
            with R.dataflow():
                y = R.insta.levels(x, t, base=-1.0, step=2.0, layout="NCHW", site="s")
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 3, 8, 8), "float32"), t: R.Tensor((3, 1, 1), "float32")
        ) -> R.Tensor((1, 3, 8, 8), "float32"):
            with R.dataflow():
                a = R.permute_dims(x, axes=[0, 2, 3, 1])
                b = R.reshape(t, R.shape([1, 3, 1, 1]))
                c = R.reshape(b, R.shape([1, 1, 1, 3]))
                d = R.insta.levels(a, c, base=-1.0, step=2.0, layout="NHWC", site="s")
                y = R.permute_dims(d, axes=[0, 3, 1, 2])
                R.output(y)
            return y

    check(to_nhwc, Before, Expected)
