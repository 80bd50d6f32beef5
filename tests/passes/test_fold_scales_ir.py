"""One factor and one offset behind each layer, on IR; the products are formed in float64."""

from __future__ import annotations

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check, const
from tvm_insta.passes.fold_scales import fold_scales

BITS = const(np.arange(4 * 9).reshape(4, 3, 3, 1), "uint32")
WEIGHT = np.arange(4 * 9 * 8.0).reshape(4, 3, 3, 8)
FLOATS, SCALED = const(WEIGHT), const(WEIGHT * 3.0)
THREE, FOUR, SIX, NINE = (const(np.full(4, value)) for value in (3.0, 4.0, 6.0, 9.0))
TWO = const(np.array(2.0))


def test_behind_a_binary_convolution():
    @I.ir_module
    class Before:
        @R.function
        def main(p: R.Tensor((1, 6, 6, 1), "uint32")) -> R.Tensor((1, 4, 4, 4), "float32"):
            with R.dataflow():
                c = R.insta.bitserial_conv2d(p, BITS, in_channels=8, layers=["conv"])
                f = R.astype(c, "float32")
                a = R.multiply(f, THREE)
                b = R.add(a, THREE)
                d = R.multiply(TWO, b)
                y = R.subtract(d, const_two)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(p: R.Tensor((1, 6, 6, 1), "uint32")) -> R.Tensor((1, 4, 4, 4), "float32"):
            with R.dataflow():
                c = R.insta.bitserial_conv2d(p, BITS, in_channels=8, layers=["conv"])
                f = R.astype(c, "float32")
                a = R.multiply(f, SIX)
                y = R.add(a, FOUR)
                R.output(y)
            return y

    check(fold_scales, Before, Expected)


def test_a_float_convolution_takes_the_factor_into_its_weights():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 4, 4, 4), "float32"):
            with R.dataflow():
                c = R.insta.conv2d(x, FLOATS, layers=["conv"])
                a = R.add(c, THREE)
                y = R.multiply(a, THREE)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 4, 4, 4), "float32"):
            with R.dataflow():
                c = R.insta.conv2d(x, SCALED, layers=["conv"])
                y = R.add(c, NINE)
                R.output(y)
            return y

    check(fold_scales, Before, Expected)


const_two = const(np.array(2.0))
