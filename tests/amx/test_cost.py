"""The cost model of tiles and popcounts: against what was measured, and what it chooses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.amx.choices import binary_layers, table
from tvm_insta.schedules import BinaryLayer, TileImage, TileWeights
from tvm_insta.schedules.x86 import amx_cost
from tvm_insta.schedules.x86.amx_cost import own_weights, popcount_us, tiles_us
from tvm_insta.schedules.x86.variants import AmxTiles

BITS, BYTES = TileWeights.BITS, TileWeights.BYTES
EXPANDED = TileImage.BITS  # as in all kernels that were timed
DOCS = Path(__file__).parents[2] / "docs" / "amx.md"


def square(side, channels, out, kernel, stride=1):
    pad = (kernel // 2,) * 4
    return BinaryLayer((side,) * 2, channels, out, (kernel,) * 2, (stride,) * 2, pad, plain=True)


@dataclass(frozen=True)
class Case:
    """A layer that was timed in both forms, best of alternating rounds on Emerald Rapids; us.

    Attributes:
        layer: its shape.
        popcount: by popcounts.
        tiles: in AMX tiles.
        weights: what the tiles took as weights.
    """

    layer: BinaryLayer
    popcount: float
    tiles: float
    weights: TileWeights


# This compiler's kernels with the epilogue of a block.
OWN = [
    Case(square(56, 64, 64, 3), 149, 129, BITS),
    Case(square(28, 128, 128, 3), 134, 91, BITS),
    Case(square(14, 256, 256, 3), 125, 92, BITS),
    Case(square(7, 512, 512, 3), 121, 154, BITS),
]
# Hand-written loops: this compiler's were not timed for 1x1 layers.
BY_HAND = [
    Case(square(56, 128, 128, 1), 57, 72, BYTES),
    Case(square(28, 256, 256, 1), 55, 42, BYTES),
    Case(square(14, 512, 512, 1), 54, 37, BYTES),
    Case(square(7, 1024, 1024, 1), 54, 50, BYTES),
]


def name(case):
    return f"{case.layer.image[0]}x{case.layer.channels}, {case.layer.kernel[0]}x"


@pytest.mark.parametrize(
    ("out", "weights", "streamed"), [(1008, BYTES, False), (1024, BYTES, True), (1040, BITS, True)]
)
def test_one_number_says_what_is_kept_as_bytes_and_what_streams(out, weights, streamed):
    """At 1 MiB itself, a layer that was timed, both; and bytes are counted to be faster there."""
    layer = square(7, 1024, out, 1)
    shape = amx_cost.geometry(layer)
    assert (own_weights(layer), amx_cost.streamed_ns(shape) > 0) == (weights, streamed)
    if shape.weight_bytes == amx_cost.HALF_CACHE:
        assert tiles_us(layer, BYTES) < tiles_us(layer, BITS)
        assert amx_cost.streamed_ns(shape) == pytest.approx(15e3, rel=0.03)
        gap = 1e3 * (tiles_us(layer, BITS) - tiles_us(layer, BYTES))
        assert gap + amx_cost.streamed_ns(shape) == pytest.approx(36e3, rel=0.03)


@pytest.mark.parametrize("case", [*OWN, *BY_HAND], ids=name)
def test_the_chosen_form_is_within_5_percent_of_the_better_one(case):
    chosen = case.tiles if AmxTiles()(case.layer, EXPANDED) else case.popcount
    assert chosen <= 1.05 * min(case.tiles, case.popcount)


@pytest.mark.parametrize("case", [*OWN, *BY_HAND], ids=name)
def test_the_difference_of_the_forms_is_near_what_was_measured(case):
    """The difference decides: within 15 % of the layer's time, with one constant for all sums."""
    counted = tiles_us(case.layer, case.weights, EXPANDED) - popcount_us(case.layer)
    assert abs(counted - (case.tiles - case.popcount)) <= 0.15 * max(case.tiles, case.popcount)


def test_the_cost_of_a_sum_is_fitted_to_the_measurements(monkeypatch):
    monkeypatch.setattr(amx_cost, "SUM_NS", 0.0)
    sums, left = [], []
    for case in (*OWN, *BY_HAND):
        sums.append(np.prod(case.layer.image) * case.layer.out_channels)
        counted = tiles_us(case.layer, case.weights, EXPANDED) - popcount_us(case.layer)
        left.append(1e3 * (case.tiles - case.popcount - counted))
    fitted = np.dot(sums, left) / np.dot(sums, sums)
    monkeypatch.undo()
    assert fitted == pytest.approx(amx_cost.SUM_NS, rel=0.02)


def test_products_and_expansion_are_fitted_to_the_bare_kernels():
    """Products, tiles that are expanded, and sums of the four 3x3 layers, with three unknowns."""
    took = 1e3 * np.array([108.0, 89.0, 87.0, 152.0])
    products = [15 * 14 * 9 * 4, 13 * 4 * 18 * 8, 2 * 7 * 36 * 16, 4 * 72 * 32]
    expanded = [7 * 9 * 4, 2 * 18 * 8, 36 * 16, 72 * 32]  # tasks of 8, 14, 14 and 7 rows
    sums = [56 * 56 * 64, 28 * 28 * 128, 14 * 14 * 256, 7 * 7 * 512]
    terms = np.array([products, expanded, sums]).T
    found, *_ = np.linalg.lstsq(terms / took[:, None], np.ones(4), rcond=None)
    assert np.abs(terms @ found / took - 1).max() < 0.03
    assert found[0] == pytest.approx(amx_cost.PRODUCT_NS, rel=0.02)
    assert found[1] == pytest.approx(amx_cost.EXPAND_NS, rel=0.02)
    # The model counts the same products and tiles.
    for case, count, tiles in zip(OWN, products, expanded, strict=True):
        shape = amx_cost.geometry(case.layer)
        assert shape.products_of(amx_cost.rows_of_group(shape)) == count
        bits, octets = tiles_us(case.layer, BITS), tiles_us(case.layer, BYTES)
        if own_weights(case.layer) is BYTES:
            assert bits - octets == pytest.approx(tiles * amx_cost.EXPAND_NS / 1e3)


@pytest.mark.parametrize("case", [*OWN, *BY_HAND], ids=name)
def test_an_image_that_is_given_leaves_two_instructions_of_three(case):
    """Per 64 bytes of the padded image, and nothing else differs."""
    given = tiles_us(case.layer, case.weights, TileImage.BYTES)
    expanded = tiles_us(case.layer, case.weights, TileImage.BITS)
    shape = amx_cost.geometry(case.layer)
    written = shape.padded[0] * shape.row * amx_cost.SIGN_NS / 1e3
    assert expanded - given == pytest.approx(written / 3)


def test_bytes_where_they_fit_half_of_the_second_level_cache():
    kinds = {case.layer.image[0]: own_weights(case.layer) for case in OWN}
    assert kinds == {56: BYTES, 28: BYTES, 14: BYTES, 7: BITS}
    assert own_weights(square(7, 1024, 1024, 1)) is BYTES  # 1 MiB
    assert own_weights(square(7, 1024, 1040, 1)) is BITS
    for kind in TileWeights:
        assert AmxTiles(wished_weights=kind).weights(OWN[0].layer) is kind


def test_a_layer_of_few_pixels_or_channels_stays_a_popcount():
    for layer in (square(1, 512, 512, 3), square(14, 256, 512, 3, stride=2), square(32, 16, 16, 3)):
        assert not AmxTiles()(layer)


@pytest.mark.parametrize(
    ("model", "count"), [("resnet18", 16), ("mobilenet_v1", 26), ("resnet20", 18)]
)
def test_layers_of_a_network(model, count):
    assert sum(binary_layers(model).values()) == count


def test_the_page_shows_the_choices():
    """Written by ``python -m tests.amx.choices``."""
    assert table() in DOCS.read_text("utf-8")
