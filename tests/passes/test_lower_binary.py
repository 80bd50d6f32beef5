"""Padding as data, weights in blocks, half of an even dot product."""

from __future__ import annotations

import numpy as np
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.networks import generic
from tests.passes.scripts import check, const
from tvm_insta.ops import packing
from tvm_insta.passes.context import Context
from tvm_insta.passes.lower_binary import lower_binary

LANES = Context(generic(4))
ZEROS = const(np.zeros((1, 1, 1, 1, 1)))
SCALE, TWICE = const(np.full(4, 0.5)), const(np.full(4, 1.0))


def constants(channels, padding):
    """Weight, its blocks, and the border tables of a 3x3 convolution of 6x6 images."""
    signs = np.random.default_rng(channels).choice([-1, 1], (4, 3, 3, channels))
    weight = packing.pack_bits(signs > 0)
    tables = packing.border_tables(
        weight,
        (6, 6),
        strides=(1, 1),
        padding=(padding,) * 4,
        dilation=(1, 1),
        in_channels_per_group=channels,
        bits=1,
        encoding="bipolar",
    )
    return weight, packing.block_weight(weight, 4), *tables


EVEN, EVEN_BLOCKS, EVEN_BASE, ROWS, COLUMNS = constants(8, 1)
ODD, ODD_BLOCKS, ODD_BASE, ODD_ROWS, ODD_COLUMNS = constants(7, 0)
BITS, BLOCKS = const(EVEN, "uint32"), const(EVEN_BLOCKS, "uint32")
HALVES = const(EVEN_BASE // 2, "int32")
ROW_CLASS, COL_CLASS = const(ROWS, "int32"), const(COLUMNS, "int32")
ODD_BITS, ODD_BLOCK = const(ODD, "uint32"), const(ODD_BLOCKS, "uint32")
ODD_TABLE = const(ODD_BASE, "int32")
ODD_ROW, ODD_COL = const(ODD_ROWS, "int32"), const(ODD_COLUMNS, "int32")


def test_padding_and_even_dot_products():
    """The words around the image are packed with it; the factor 2 is in the scale."""
    assert EVEN_BASE.shape == (3, 3, 4) and not (EVEN_BASE % 2).any()

    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 6, 6, 4), "float32"):
            with R.dataflow():
                p = R.insta.threshold_pack(x, ZEROS, nan=1, site="s")
                c = R.insta.bitserial_conv2d(
                    p, BITS, padding=[1, 1, 1, 1], in_channels=8, layers=["conv"]
                )
                f = R.astype(c, "float32")
                y = R.multiply(f, SCALE)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 8), "float32")) -> R.Tensor((1, 6, 6, 4), "float32"):
            with R.dataflow():
                p = R.insta.threshold_pack(x, ZEROS, pad=[1, 1, 1, 1], nan=1, site="s")
                c = R.insta.bitserial_conv2d_blocked(
                    p, BLOCKS, HALVES, ROW_CLASS, COL_CLASS, alpha=1, layers=["conv"]
                )
                f = R.astype(c, "float32")
                y = R.multiply(f, TWICE)
                R.output(y)
            return y

    check(lower_binary, Before, Expected, LANES)


def test_odd_dot_products_without_padding():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 7), "float32")) -> R.Tensor((1, 4, 4, 4), "int32"):
            with R.dataflow():
                p = R.insta.threshold_pack(x, ZEROS)
                y = R.insta.bitserial_conv2d(p, ODD_BITS, in_channels=7, layers=["conv"])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 7), "float32")) -> R.Tensor((1, 4, 4, 4), "int32"):
            with R.dataflow():
                p = R.insta.threshold_pack(x, ZEROS)
                y = R.insta.bitserial_conv2d_blocked(
                    p, ODD_BLOCK, ODD_TABLE, ODD_ROW, ODD_COL, alpha=2, layers=["conv"]
                )
                R.output(y)
            return y

    check(lower_binary, Before, Expected, LANES)
