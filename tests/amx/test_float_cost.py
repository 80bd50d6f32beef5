"""The cost model of float layers: against what was measured in float32, and what it chooses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.amx.float_choices import KINDS, float_layers, table
from tvm_insta.schedules import FloatLayer, FloatVariant, back_end
from tvm_insta.schedules.x86.amx_float_cost import (
    AmxFloats,
    float32_us,
    geometry,
    tiles_us,
    vectors_us,
)
from tvm_insta.target import parse

DOCS = Path(__file__).parents[2] / "docs" / "amx.md"
FLOAT32, VECTORS, TILES = FloatVariant


def square(side, channels, out, kernel=1, stride=1):
    pad = (kernel // 2,) * 4
    return FloatLayer((side,) * 2, channels, out, (kernel,) * 2, (stride,) * 2, pad)


STEM, SMALL_STEM = square(224, 3, 64, 7, 2), square(224, 3, 32, 3, 2)
# This compiler's kernels in float32, best on Emerald Rapids, in microseconds.
MEASURED = {
    STEM: 1508,
    square(28, 64, 128): 80,
    square(14, 128, 256): 85,
    square(7, 256, 512): 76,
    SMALL_STEM: 189,
}


@pytest.mark.parametrize("layer", MEASURED, ids=str)
def test_float32_is_counted_at_its_peak(layer):
    """Never above what was measured: what is chosen in its place should gain."""
    assert 0.6 * MEASURED[layer] < float32_us(layer) <= MEASURED[layer]


def test_terms_of_a_stem():
    """Each figure by hand, for the 7x7 stem."""
    outputs, macs = 112 * 112 * 64, 112 * 112 * 64 * 147
    codes = 224 * 224 * 3 * 4 / 3 / 16
    assert float32_us(STEM) == pytest.approx(macs / 86e3)
    # 21 taps of a row are 24 bytes in lanes of four, and 22 in lanes of two.
    assert vectors_us(STEM, "int8") == pytest.approx((macs * 24 / 21 / 345 + codes) / 1e3)
    assert vectors_us(STEM, "bf16") == pytest.approx((macs * 22 / 21 / 29 + codes) / 1e3)
    # 7 tiles of 16 pixels a row, 7 kernel rows of one unit, 4 groups of 16 channels.
    products = 112 * 7 * 7 * 4
    beside = outputs * 0.09 + codes
    int8, bf16 = products * 16 * 16 * 64 / 2308, products * 16 * 16 * 32 / 620
    assert tiles_us(STEM, "int8") == pytest.approx((int8 + beside) / 1e3)
    assert tiles_us(STEM, "bf16") == pytest.approx((bf16 + beside) / 1e3)
    assert geometry(STEM, "bf16").units == geometry(STEM, "int8").units == 1


def test_weights_behind_the_second_level_cache_count():
    below, above = square(1, 512, 500), square(1, 512, 528)  # in float32 1,024,000 and 1,081,344
    work = 528 / 500 * 4 / 16  # and of 500 channels only four make a vector
    extra = float32_us(above) - float32_us(below) * work
    assert extra == pytest.approx(528 * 512 * 4 * 0.007 / 1e3)


@pytest.mark.parametrize("kind", KINDS)
def test_no_variant_is_counted_slower_than_float32(kind):
    choice = AmxFloats(kind)
    layers = [layer for model in ("resnet18", "mobilenet_v1") for layer in float_layers(model)]
    for layer in [*layers, *MEASURED, square(1, 32, 16), square(1, 8, 4)]:
        counted = choice.counted(layer)
        if choice(layer) is FLOAT32:
            assert min(counted.values()) >= 0.9 * float32_us(layer)
        else:
            assert counted[choice(layer)] == min(counted.values()) < 0.9 * float32_us(layer)
        assert (TILES in counted) == (layer.out_channels % 16 == 0)


def test_each_variant_is_chosen_somewhere():
    int8, bf16 = AmxFloats("int8"), AmxFloats("bf16")
    assert int8(STEM) is bf16(STEM) is TILES
    assert int8(SMALL_STEM) is VECTORS  # 9 of 64 bytes of a kernel row
    assert bf16(square(1, 32, 16)) is FLOAT32  # one of the 16 rows of a tile
    assert int8.note(STEM) == "int8 in AMX tiles (by cost model)"
    assert int8.note(SMALL_STEM) == "int8 in vectors (by cost model)"
    expected = "stays in float32: bf16 would gain nothing here (by cost model)"
    assert bf16.note(square(1, 32, 16)) == expected


@pytest.mark.parametrize(
    ("target", "kinds"),
    [
        ("llvm -mcpu=sapphirerapids", {"int8", "bf16"}),
        ("llvm -mcpu=sapphirerapids -mattr=-amx-bf16", {"int8"}),
        ("llvm -mcpu=sapphirerapids -mattr=-amx-int8", {"bf16"}),
        ("llvm -mcpu=sapphirerapids -mattr=-amx-tile", set()),
        ("llvm -mcpu=cooperlake", set()),
        ("llvm -mcpu=znver5", set()),
        ("cortex-a76", set()),
    ],
)
def test_only_targets_with_such_tiles_choose(target, kinds):
    chosen = back_end(parse(target).tvm)
    assert {kind for kind in KINDS if chosen.chooses_floats(kind) is not None} == kinds


def test_the_page_shows_the_choices():
    """Written by ``python -m tests.amx.float_choices``."""
    assert table() in DOCS.read_text("utf-8")
