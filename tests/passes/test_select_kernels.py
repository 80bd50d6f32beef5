"""Which binary convolutions AMX tiles compute: by wish, by measurement, by cost model."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.networks import generic
from tests.passes.scripts import check, const
from tvm_insta.frontend import SourceLayer
from tvm_insta.ops import packing
from tvm_insta.passes.context import Context
from tvm_insta.passes.report import Layer, Report
from tvm_insta.passes.select_kernels import select_kernels
from tvm_insta.schedules import BinaryLayer, Measured
from tvm_insta.target import parse

SERVER = parse("llvm -mtriple=x86_64-linux-gnu -mcpu=sapphirerapids")
SIGNS = np.random.default_rng(0).choice([-1, 1], (64, 3, 3, 64))
WORDS = packing.pack_bits(SIGNS > 0)
BITS, TILES = const(WORDS, "uint32"), const(packing.tile_weight(WORDS, 64), "uint32")
OCTETS = const(packing.tile_bytes(packing.tile_weight(WORDS, 64), 64, 3), "int8")
ZEROS = const(np.zeros((1, 1, 1, 1, 1)))
SHAPE = BinaryLayer((8, 8), 64, 64, (3, 3), (1, 1), (1, 1, 1, 1), plain=True)


@I.ir_module
class Popcount:
    @R.function
    def main(x: R.Tensor((1, 8, 8, 64), "float32")) -> R.Tensor((1, 8, 8, 64), "int32"):
        with R.dataflow():
            p = R.insta.threshold_pack(x, ZEROS)
            y = R.insta.bitserial_conv2d(
                p, BITS, padding=[1, 1, 1, 1], in_channels=64, layers=["conv"]
            )
            R.output(y)
        return y


@I.ir_module
class Bytes:
    @R.function
    def main(x: R.Tensor((1, 8, 8, 64), "float32")) -> R.Tensor((1, 8, 8, 64), "int32"):
        with R.dataflow():
            p = R.insta.threshold_pack(x, ZEROS)
            y = R.insta.bitserial_conv2d_signs(
                p,
                OCTETS,
                in_channels=64,
                kernel_width=3,
                padding=[1, 1, 1, 1],
                weights="bytes",
                layers=["conv"],
            )
            R.output(y)
        return y


@I.ir_module
class Tiles:
    @R.function
    def main(x: R.Tensor((1, 8, 8, 64), "float32")) -> R.Tensor((1, 8, 8, 64), "int32"):
        with R.dataflow():
            p = R.insta.threshold_pack(x, ZEROS)
            y = R.insta.bitserial_conv2d_signs(
                p, TILES, in_channels=64, kernel_width=3, padding=[1, 1, 1, 1], layers=["conv"]
            )
            R.output(y)
        return y


CASES = {
    "wished": ({"binary": "amx"}, Bytes, "computed in AMX tiles, weights as bytes"),
    "bits wished": (
        {"binary": "amx", "amx_weights": "bits"},
        Tiles,
        "computed in AMX tiles, weights as bits",
    ),
    "bytes wished": (
        {"amx_weights": "bytes"},
        Bytes,
        "computed in AMX tiles, weights as bytes (by cost model)",
    ),
    "not wished": (
        {"binary": "popcount"},
        Popcount,
        "computed by popcount, not in AMX tiles",
    ),
    "by cost model": ({}, Bytes, "computed in AMX tiles, weights as bytes (by cost model)"),
    "measured slower": (
        {"measured": {SHAPE: Measured(popcount=1.0, tiles=2.0)}},
        Popcount,
        "computed by popcount, not in AMX tiles (measured)",
    ),
    "measured faster": (
        {"measured": {SHAPE: Measured(popcount=2.0, tiles=1.0)}},
        Bytes,
        "computed in AMX tiles, weights as bytes (measured)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_layer_that_could_be_either(case):
    options, expected, note = CASES[case]
    layer = Layer(SourceLayer("conv", "conv2d", "", 0, (), ()))
    check(select_kernels, Popcount, expected, Context(SERVER, report=Report([layer]), **options))
    assert (layer.shape, layer.notes) == (SHAPE, (note,))


def test_a_target_without_tiles():
    layer = Layer(SourceLayer("conv", "conv2d", "", 0, (), ()))
    check(select_kernels, Popcount, Popcount, Context(generic(4), report=Report([layer])))
    assert (layer.shape, layer.notes) == (None, ())
