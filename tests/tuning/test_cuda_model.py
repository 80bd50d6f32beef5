"""The model of kernels on cards: its figures by hand, and what it must prefer."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_insta.cuda_emulator import LaunchCounts, Unit
from tvm_insta.errors import TuneError
from tvm_insta.tuning.cuda_cards import CARDS, card_of
from tvm_insta.tuning.cuda_model import Limit, estimate, resident_blocks

NOTHING = LaunchCounts(
    kernel="k",
    grid=(132 * 64, 1, 1),
    block=(256, 1, 1),
    shared_bytes=1024,
    instructions=dict.fromkeys(Unit, 0),
    shared_wavefronts=0,
    shared_accesses=0,
    load_sectors=0,
    store_sectors=0,
    touched_sectors=0,
    global_bytes=0,
)


def counts(more=None, **changed):
    instructions = {**NOTHING.instructions, **(more or {})}
    return dataclasses.replace(NOTHING, instructions=instructions, **changed)


@pytest.mark.parametrize(
    ("found", "limit", "block_clocks"),
    [
        (counts({Unit.INTEGER: 10_000}), Limit.INTEGER, 5_000),  # 64 lanes a clock
        (counts({Unit.POPCOUNT: 10_000}), Limit.POPCOUNT, 20_000),  # 16 lanes
        (counts({Unit.MATRIX_BITS: 5_400}), Limit.MATRIX, 10_000),
        (counts({Unit.FLOAT: 40_000, Unit.MEMORY: 40_000}), Limit.ISSUE, 20_000),
        (counts(shared_wavefronts=9_000), Limit.SHARED, 9_000),
        (counts(load_sectors=6_000, store_sectors=4_000), Limit.CACHE, 5_000),  # 64 bytes a clock
    ],
)
def test_clocks_by_hand(found, limit, block_clocks):
    """64 blocks for each of the 132 multiprocessors of an H100."""
    made = estimate(CARDS[90], found, registers=32, tensor_bytes=0)
    assert made.limit is limit
    assert made.block_clocks[limit] == pytest.approx(block_clocks)
    assert made.clocks == pytest.approx(64 * block_clocks)


def test_moves_cost_nothing():
    assert estimate(CARDS[90], counts({Unit.NONE: 10**6}), 32, 0).limit is Limit.LATENCY


def test_memory_bounds_what_computes_little():
    made = estimate(CARDS[80], counts({Unit.INTEGER: 10}), 32, tensor_bytes=2_039_000_000)
    assert made.limit is Limit.MEMORY
    assert made.clocks == pytest.approx(1.41e6)


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "resident"),
    [
        (128, 32, 0, 16),  # threads: 2048
        (128, 255, 0, 2),  # registers: 65536, of a warp by 256
        (128, 32, 48 << 10, 4),  # shared memory: 228 KiB, and one of each block is taken
        (32, 16, 0, 32),  # blocks
        (33, 16, 0, 32),
        (1024, 64, 0, 1),
    ],
)
def test_blocks_of_a_multiprocessor(threads, registers, shared, resident):
    assert resident_blocks(CARDS[90], threads, registers, shared) == resident


def test_a_block_that_does_not_fit():
    with pytest.raises(TuneError, match="does not fit a multiprocessor of the H100"):
        resident_blocks(CARDS[90], 1024, 128, 0)


def test_a_block_more_than_the_card_holds_costs_a_wave():
    full = counts({Unit.INTEGER: 400}, grid=(132 * 8, 1, 1))
    more = counts({Unit.INTEGER: 400}, grid=(132 * 8 + 1, 1, 1))
    first, second = (estimate(CARDS[90], each, 32, 0) for each in (full, more))
    assert (first.waves, second.waves) == (1, 2)
    assert second.clocks > first.clocks


@pytest.mark.parametrize("arch", CARDS)
@pytest.mark.parametrize(
    "field", ["shared_wavefronts", "load_sectors", "store_sectors", Unit.INTEGER, Unit.MATRIX_BITS]
)
def test_more_of_anything_is_never_cheaper(arch, field):
    base = {Unit.INTEGER: 9_000, Unit.MATRIX_BITS: 900}
    given = {"shared_wavefronts": 3_000, "load_sectors": 2_000, "store_sectors": 1_000}
    previous = 0.0
    for factor in (0, 1, 2, 10, 100):
        changed, fields = dict(base), dict(given)
        (changed if isinstance(field, Unit) else fields)[field] = factor * 1_000
        clocks = estimate(CARDS[arch], counts(changed, **fields), 64, 10**6).clocks
        assert clocks >= previous
        previous = clocks


def test_unknown_cards():
    assert card_of("sm_90a").name == "H100 SXM"
    with pytest.raises(TuneError, match="figures for sm_80, sm_86"):
        card_of("sm_75")
