"""Float weights lie in blocks of output channels; dense layers are 1x1 convolutions."""

from __future__ import annotations

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.networks import generic
from tests.passes.scripts import check, const
from tvm_insta.ops import packing
from tvm_insta.passes.context import Context
from tvm_insta.passes.lower_floats import lower_floats

LANES = Context(generic(8))
WEIGHT = np.arange(12 * 9 * 2.0, dtype=np.float32).reshape(12, 3, 3, 2)
FLOATS, BLOCKS = const(WEIGHT), const(packing.block_weight(WEIGHT, 4))  # 8 do not divide 12
MATRIX = np.arange(6 * 16.0, dtype=np.float32).reshape(6, 16)
DENSE = const(MATRIX)
COLUMNS = const(packing.block_weight(MATRIX.T[:, None, None, :], 8))


def test_a_convolution():
    assert tuple(BLOCKS.ty.shape.values) == (3, 3, 3, 2, 4)

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 2), "float32")) -> R.Tensor((1, 3, 3, 12), "float32"):
            with R.dataflow():
                y = R.insta.conv2d(x, FLOATS, strides=[2, 2], padding=[1, 1, 1, 1], layers=["conv"])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 2), "float32")) -> R.Tensor((1, 3, 3, 12), "float32"):
            with R.dataflow():
                y = R.insta.conv2d_blocked(
                    x, BLOCKS, strides=[2, 2], padding=[1, 1, 1, 1], layers=["conv"]
                )
                R.output(y)
            return y

    check(lower_floats, Before, Expected, LANES)


def test_a_dense_layer():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6), "float32")) -> R.Tensor((1, 16), "float32"):
            with R.dataflow():
                y = R.insta.dense(x, DENSE, layers=["fc"])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6), "float32")) -> R.Tensor((1, 16), "float32"):
            with R.dataflow():
                i = R.reshape(x, R.shape([1, 1, 1, 6]))
                c = R.insta.conv2d_blocked(i, COLUMNS, layers=["fc"])
                y = R.reshape(c, R.shape([1, 16]))
                R.output(y)
            return y

    check(lower_floats, Before, Expected, LANES)


def test_a_computed_weight_stays():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6), "float32"), w: R.Tensor((6, 16), "float32")) -> R.Tensor(
            (1, 16), "float32"
        ):
            with R.dataflow():
                y = R.insta.dense(x, w, layers=["fc"])
                R.output(y)
            return y

    check(lower_floats, Before, Before, LANES)
