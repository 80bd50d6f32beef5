"""Several moments of one tensor are parts of one operator."""

from __future__ import annotations

from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check
from tvm_insta.passes.merge_moments import merge_moments


def test_two_moments_of_a_tensor():
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 6, 5, 8), "float32"), z: R.Tensor((1, 6, 5, 8), "float32")
        ) -> R.Tensor((1, 1, 8), "float32"):
            with R.dataflow():
                third = R.insta.moments(x, orders=[3])
                other = R.insta.moments(z, orders=[2])
                second = R.insta.moments(x, orders=[2])
                sum = R.add(third, other)
                y = R.subtract(sum, second)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 6, 5, 8), "float32"), z: R.Tensor((1, 6, 5, 8), "float32")
        ) -> R.Tensor((1, 1, 8), "float32"):
            with R.dataflow():
                both = R.insta.moments(x, orders=[2, 3])
                third = R.strided_slice(both, axes=[1], begin=[1], end=[2])
                other = R.insta.moments(z, orders=[2])
                second = R.strided_slice(both, axes=[1], begin=[0], end=[1])
                sum = R.add(third, other)
                y = R.subtract(sum, second)
                R.output(y)
            return y

    check(merge_moments, Before, Expected)


def test_one_order_and_pairs_stay():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 8), "float32")) -> R.Tensor((1, 3, 8), "float32"):
            with R.dataflow():
                one = R.insta.moments(x, orders=[4])
                pair = R.insta.moments(x, orders=[3, 2])
                y = R.concat((one, pair), axis=1)
                R.output(y)
            return y

    check(merge_moments, Before, Before)
