"""Moments are sums of rows and a mean of these."""

from __future__ import annotations

from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check
from tvm_insta.passes.lower_moments import lower_moments


def test_moments():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 8), "float32")) -> R.Tensor((1, 2, 8), "float32"):
            with R.dataflow():
                y = R.insta.moments(x, orders=[2, 3])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 8), "float32")) -> R.Tensor((1, 2, 8), "float32"):
            with R.dataflow():
                rows = R.insta.moment_rows(x, orders=[2, 3])
                y = R.insta.moment_mean(rows, width=5)
                R.output(y)
            return y

    check(lower_moments, Before, Expected)


def test_an_image_of_unknown_width():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, "w", 8), "float32")) -> R.Tensor((1, 1, 8), "float32"):
            with R.dataflow():
                y = R.insta.moments(x, orders=[3])
                R.output(y)
            return y

    check(lower_moments, Before, Before)
