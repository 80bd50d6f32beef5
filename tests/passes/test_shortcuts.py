"""The average pool of a shortcut is `insta.halving_pool`; other pools stay."""

from __future__ import annotations

import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check
from tvm_insta.passes.shortcuts import pool_shortcuts


def test_a_pool_that_is_only_added():
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 6, 6, 4), "float32"), z: R.Tensor((1, 3, 3, 4), "float32")
        ) -> R.Tensor((1, 3, 3, 4), "float32"):
            with R.dataflow():
                p = R.nn.avg_pool2d(x, pool_size=[2, 2], strides=[2, 2], layout="NHWC")
                y = R.add(z, p)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 6, 6, 4), "float32"), z: R.Tensor((1, 3, 3, 4), "float32")
        ) -> R.Tensor((1, 3, 3, 4), "float32"):
            with R.dataflow():
                p = R.insta.halving_pool(x)
                y = R.add(z, p)
                R.output(y)
            return y

    check(pool_shortcuts, Before, Expected)


@pytest.mark.parametrize("strides", [1, 2])
def test_a_pool_that_is_multiplied_or_overlaps_stays(strides):
    size = 6 // strides - (strides == 1)

    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 6, 6, 4), "float32"), z: R.Tensor((1, size, size, 4), "float32")
        ) -> R.Tensor((1, size, size, 4), "float32"):
            with R.dataflow():
                p = R.nn.avg_pool2d(x, pool_size=[2, 2], strides=[strides, strides], layout="NHWC")
                y = R.multiply(z, p) if strides == 2 else R.add(z, p)
                R.output(y)
            return y

    check(pool_shortcuts, Before, Before)
