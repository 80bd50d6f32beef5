"""Float layers in bfloat16, and in 8-bit integers of the range that the samples show."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R

from tests.passes.networks import generic
from tests.passes.scripts import check, const
from tvm_insta.frontend import SourceLayer
from tvm_insta.ops import packing
from tvm_insta.ops.tile_numbers import narrow_tiles
from tvm_insta.passes.context import Context
from tvm_insta.passes.narrow_floats import narrow_floats
from tvm_insta.passes.report import Layer, Report
from tvm_insta.schedules import FloatVariant
from tvm_insta.schedules.x86.amx_float_cost import AmxFloats
from tvm_insta.target import parse

WEIGHT = np.random.default_rng(0).standard_normal((8, 3, 3, 4)).astype(np.float32)
FLOATS = const(WEIGHT)
NARROW, _, _ = packing.narrow_weight(WEIGHT, "bf16", 8)
BF16 = const(NARROW, "uint32")
CODES, SUMS, STEPS = packing.narrow_weight(WEIGHT, "int8", 8)
SCALE = 127 / 4.0
INT8, ADDED, FACTOR = const(CODES, "uint32"), const(128 * SUMS, "int32"), const(STEPS / SCALE)
FEW = const(WEIGHT[:3])


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor((1, 6, 6, 4), "float32")) -> R.Tensor((1, 6, 6, 8), "float32"):
        with R.dataflow():
            y = R.insta.conv2d(x, FLOATS, padding=[1, 1, 1, 1], layers=["conv"])
            R.output(y)
        return y


def context(dtype, **options):
    layer = Layer(SourceLayer("conv", "conv2d", "", 0, (), ()))
    return layer, Context(generic(8), float_dtype=dtype, report=Report([layer]), **options)


def test_bfloat16():
    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 4), "float32")) -> R.Tensor((1, 6, 6, 8), "float32"):
            with R.dataflow():
                y = R.insta.conv2d_narrow(
                    x, BF16, kind="bf16", kernel_width=3, padding=[1, 1, 1, 1], layers=["conv"]
                )
                R.output(y)
            return y

    layer, options = context("bf16")
    check(narrow_floats, Before, Expected, options)
    assert layer.notes == ("computed in bf16",)


def test_integers():
    """The largest magnitude of the samples is code 127; what code 128 of 0 adds is taken off."""

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 4), "float32")) -> R.Tensor((1, 6, 6, 8), "float32"):
            with R.dataflow():
                c = R.insta.conv2d_narrow(
                    x,
                    INT8,
                    kind="int8",
                    kernel_width=3,
                    padding=[1, 1, 1, 1],
                    scale=SCALE,
                    layers=["conv"],
                )
                d = R.subtract(c, ADDED)
                f = R.astype(d, "float32")
                y = R.multiply(f, FACTOR)
                R.output(y)
            return y

    samples = np.zeros((2, 6, 6, 4), np.float32)
    samples[1, 2, 3, 1] = -4.0
    layer, options = context("int8", samples=[samples])
    check(narrow_floats, Before, Expected, options)
    assert layer.notes == ("computed in int8",)


def test_too_few_channels_stay_in_float32():
    @I.ir_module
    class Small:
        @R.function
        def main(x: R.Tensor((1, 6, 6, 4), "float32")) -> R.Tensor((1, 4, 4, 3), "float32"):
            with R.dataflow():
                y = R.insta.conv2d(x, FEW, layers=["conv"])
                R.output(y)
            return y

    layer, options = context("bf16")
    check(narrow_floats, Small, Small, options)
    assert layer.notes == ()


SERVER = parse("llvm -mtriple=x86_64-linux-gnu -mcpu=sapphirerapids")
WIDE = np.random.default_rng(1).standard_normal((32, 3, 3, 4)).astype(np.float32)
WIDE_FLOATS = const(WIDE)
TILES_BF16 = const(narrow_tiles(WIDE, "bf16")[0], "uint16")
WIDE_CODES, _, WIDE_STEPS = narrow_tiles(WIDE, "int8")
TILES_INT8, WIDE_FACTOR = const(WIDE_CODES, "int8"), const(WIDE_STEPS / SCALE)


@I.ir_module
class Wide:
    @R.function
    def main(x: R.Tensor((1, 64, 64, 4), "float32")) -> R.Tensor((1, 64, 64, 32), "float32"):
        with R.dataflow():
            y = R.insta.conv2d(x, WIDE_FLOATS, padding=[1, 1, 1, 1], layers=["conv"])
            R.output(y)
        return y


def choosing(variant):
    """A cost model that always chooses one variant."""
    return lambda *_: variant


def on_server(dtype, **options):
    layer = Layer(SourceLayer("conv", "conv2d", "", 0, (), ()))
    return layer, Context(SERVER, float_dtype=dtype, report=Report([layer]), **options)


def test_bfloat16_in_tiles():
    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 64, 64, 4), "float32")) -> R.Tensor((1, 64, 64, 32), "float32"):
            with R.dataflow():
                y = R.insta.conv2d_tiles(
                    x,
                    TILES_BF16,
                    kind="bf16",
                    kernel_width=3,
                    padding=[1, 1, 1, 1],
                    layers=["conv"],
                )
                R.output(y)
            return y

    layer, options = on_server("bf16")
    check(narrow_floats, Wide, Expected, options)
    assert layer.notes == ("computed in bf16", "bf16 in AMX tiles (by cost model)")


def test_integers_in_tiles(monkeypatch):
    """Signed codes: nothing is taken off."""

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 64, 64, 4), "float32")) -> R.Tensor((1, 64, 64, 32), "float32"):
            with R.dataflow():
                c = R.insta.conv2d_tiles(
                    x,
                    TILES_INT8,
                    kind="int8",
                    kernel_width=3,
                    padding=[1, 1, 1, 1],
                    scale=SCALE,
                    layers=["conv"],
                )
                f = R.astype(c, "float32")
                y = R.multiply(f, WIDE_FACTOR)
                R.output(y)
            return y

    monkeypatch.setattr(AmxFloats, "__call__", choosing(FloatVariant.TILES))
    samples = np.zeros((2, 64, 64, 4), np.float32)
    samples[1, 2, 3, 1] = -4.0
    layer, options = on_server("int8", samples=[samples])
    check(narrow_floats, Wide, Expected, options)
    assert layer.notes == ("computed in int8", "int8 in AMX tiles (by cost model)")


def test_a_layer_that_is_faster_in_float32_stays(monkeypatch):
    monkeypatch.setattr(AmxFloats, "__call__", choosing(FloatVariant.FLOAT32))
    layer, options = on_server("bf16")
    check(narrow_floats, Wide, Wide, options)
    assert layer.notes == ("stays in float32: bf16 would gain nothing here (by cost model)",)


def test_vectors_say_that_tiles_were_counted(monkeypatch):
    monkeypatch.setattr(AmxFloats, "__call__", choosing(FloatVariant.VECTORS))
    layer, options = on_server("bf16")
    narrow_floats(Wide, options)
    assert layer.notes == ("computed in bf16", "bf16 in vectors (by cost model)")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_pipeline_has_the_pass_where_it_is_asked_for(dtype):
    assert narrow_floats.when(Context(parse("avx512"), float_dtype=dtype)) is (dtype != "fp32")
