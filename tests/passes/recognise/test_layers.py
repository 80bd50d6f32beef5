"""A convolution, a dense layer and a product of level tensors compute on packed bits."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.scripts import check, const
from tvm_insta.errors import ImportModelError
from tvm_insta.ops import packing
from tvm_insta.passes.recognise import recognise_layers

SIGNS = np.random.default_rng(0).choice([-1.0, 1.0], (4, 3, 3, 8))
WEIGHT, BITS = const(SIGNS * 0.5), const(packing.pack_bits(SIGNS > 0), "uint32")
HALF = const(np.full(4, 0.5))
MATRIX = np.random.default_rng(1).choice([-1.0, 1.0], (8, 4))
DENSE = const(MATRIX)
ROWS = const(packing.pack_bits((MATRIX.T > 0)[:, None, None, :])[:, 0, 0, :], "uint32")
ZERO, ZEROS = const(np.zeros((1, 1, 1, 1))), const(np.zeros((1, 1, 1, 1, 1)))
ZERO2, ZEROS2 = const(np.zeros((1, 1))), const(np.zeros((1, 1, 1)))
REAL = const(np.arange(4 * 9 * 8.0).reshape(4, 3, 3, 8))


def test_a_convolution_of_signs():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 6, 6, 4), "float32"):
            with R.dataflow():
                s = R.insta.levels(x, ZERO, base=-1.0, step=2.0, site="s")
                y = R.insta.conv2d(s, WEIGHT, padding=[1, 1, 1, 1], layers=["conv"])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 6, 6, 4), "float32"):
            with R.dataflow():
                p = R.insta.threshold_pack(x, ZEROS, site="s")
                c = R.insta.bitserial_conv2d(
                    p, BITS, padding=[1, 1, 1, 1], in_channels=8, layers=["conv"]
                )
                f = R.astype(c, "float32")
                y = R.multiply(f, HALF)
                R.output(y)
            return y

    check(recognise_layers, Before, Expected)


def test_a_dense_layer_of_bits():
    """0 and 1 are the unsigned encoding; a scale of 1 is none."""

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 8), "float32")) -> R.Tensor((1, 4), "float32"):
            with R.dataflow():
                s = R.insta.levels(x, ZERO2, base=0.0, step=1.0, compare="gt")
                y = R.insta.dense(s, DENSE, layers=["fc"])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 8), "float32")) -> R.Tensor((1, 4), "float32"):
            with R.dataflow():
                p = R.insta.threshold_pack(x, ZEROS2, compare="gt")
                d = R.insta.bitserial_dense(
                    p, ROWS, in_channels=8, encoding="unsigned", layers=["fc"]
                )
                y = R.astype(d, "float32")
                R.output(y)
            return y

    check(recognise_layers, Before, Expected)


def test_a_product_of_two_level_tensors():
    @I.ir_module
    class Before:
        @R.function
        def main(
            a: R.Tensor((1, 2, 3, 8), "float32"), b: R.Tensor((1, 2, 5, 8), "float32")
        ) -> R.Tensor((1, 2, 3, 5), "float32"):
            with R.dataflow():
                s = R.insta.levels(a, ZERO, base=-1.0, step=2.0)
                t = R.insta.levels(b, ZERO, base=0.0, step=1.0)
                y = R.insta.product(s, t, layers=["attention"])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            a: R.Tensor((1, 2, 3, 8), "float32"), b: R.Tensor((1, 2, 5, 8), "float32")
        ) -> R.Tensor((1, 2, 3, 5), "float32"):
            with R.dataflow():
                p = R.insta.threshold_pack(a, ZEROS)
                q = R.insta.threshold_pack(b, ZEROS)
                c = R.insta.bitserial_product(
                    p, q, in_channels=8, right_encoding="unsigned", layers=["attention"]
                )
                y = R.astype(c, "float32")
                R.output(y)
            return y

    check(recognise_layers, Before, Expected)


def test_float_layers_stay():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 4, 4, 4), "float32"):
            with R.dataflow():
                y = R.insta.conv2d(x, REAL, layers=["conv"])
                R.output(y)
            return y

    check(recognise_layers, Before, Before)


def test_levels_in_front_of_real_weights_are_a_fault_of_the_compiler():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 4, 4, 4), "float32"):
            with R.dataflow():
                s = R.insta.levels(x, ZERO, base=-1.0, step=2.0, site="s")
                y = R.insta.conv2d(s, REAL, layers=["conv"])
                R.output(y)
            return y

    with pytest.raises(
        ImportModelError, match=r"its weights are real-valued .* fault of the compiler"
    ):
        recognise_layers(Before)
