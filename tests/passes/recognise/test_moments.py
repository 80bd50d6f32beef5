"""Means of powers over an image are moments, whatever the spelling of the power."""

from __future__ import annotations

from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check
from tvm_insta.passes.recognise import recognise_moments


def test_a_mean_of_cubes():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                square = R.multiply(x, x)
                cube = R.multiply(square, x)
                y = R.mean(cube, axis=[1, 2])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                m = R.insta.moments(x, orders=[3])
                y = R.reshape(m, R.shape([1, 8]))
                R.output(y)
            return y

    check(recognise_moments, Before, Expected)


def test_dimensions_that_are_kept_and_a_power():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                square = R.power(x, R.const(2.0, "float32"))
                mean = R.mean(square, axis=[1, 2], keepdims=True)
                y = R.reshape(mean, R.shape([1, 8]))
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                m = R.insta.moments(x, orders=[2])
                y = R.reshape(m, R.shape([1, 8]))  # of two reshapes, one
                R.output(y)
            return y

    check(recognise_moments, Before, Expected)


def test_other_means_stay():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 6, 8), "float32"):
            with R.dataflow():
                plain = R.mean(x, axis=[1])
                square = R.multiply(x, x)
                rows = R.mean(square, axis=[2])
                y = R.add(plain, rows)
                R.output(y)
            return y

    check(recognise_moments, Before, Before)


def test_a_quotient_of_moments():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                square = R.multiply(x, x)
                cube = R.multiply(square, x)
                third = R.mean(cube, axis=[1, 2])
                second = R.mean(square, axis=[1, 2])
                positive = R.add(second, R.const(0.5, "float32"))
                y = R.divide(third, positive)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                both = R.insta.moments(x, orders=[2, 3])
                y = R.insta.moment_quotient(both, offset=0.5)
                R.output(y)
            return y

    check(recognise_moments, Before, Expected)


def test_quotients_of_something_else_stay():
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 6, 6, 8), "float32"), z: R.Tensor((1, 6, 6, 8), "float32")
        ) -> R.Tensor((1, 8), "float32"):
            with R.dataflow():
                m = R.insta.moments(x, orders=[3])
                third = R.reshape(m, R.shape([1, 8]))
                n = R.insta.moments(z, orders=[2])  # of another tensor
                second = R.reshape(n, R.shape([1, 8]))
                quotient = R.divide(third, second)
                y = R.divide(quotient, R.const(2.0, "float32"))
                R.output(y)
            return y

    check(recognise_moments, Before, Before)
