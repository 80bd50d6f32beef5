"""A model of a kernel on a card, from what one of its blocks was counted to do.

    per block   clocks of each unit = instructions / rate; of shared memory = passes; of the cache =
                sectors * 32 / bytes a clock; of issue = instructions / 4 schedulers
    per SM      its blocks, one after the other through the unit that is busiest; at least the time
                that the blocks which are resident together wait: latency, and a warp's own chain
    the card    at least the bytes of its tensors through its memory

The figure ranks choices of one kernel for one card. It is no time, and is never shown as one: what
PTX becomes is ptxas's choice, caches are not modelled, and the latencies are assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tvm_insta.cuda_emulator import LaunchCounts, Unit
from tvm_insta.errors import TuneError
from tvm_insta.tuning.cuda_cards import Card

_SECTOR = 32
_SCHEDULERS = 4
_LANES = 32
_REGISTERS_AT_ONCE, _SHARED_RESERVED = 256, 1024  # registers of a warp, bytes of a block
# Assumed: clocks until a block's first loads have arrived and its last stores have left, and
# between two instructions of a warp of which most depend on the one before.
_LATENCY, _CHAIN = 1200.0, 4.0


class Limit(Enum):
    """What bounds a kernel."""

    ISSUE = "issue"
    INTEGER = "integer"
    FLOAT = "float"
    DOUBLE = "double"
    POPCOUNT = "popcount"
    CONVERT = "convert"
    MATRIX = "matrix"
    SHARED = "shared memory"
    CACHE = "second-level cache"
    MEMORY = "memory of the card"
    LATENCY = "latency"


_LIMITS = {
    Unit.INTEGER: Limit.INTEGER,
    Unit.FLOAT: Limit.FLOAT,
    Unit.DOUBLE: Limit.DOUBLE,
    Unit.POPCOUNT: Limit.POPCOUNT,
    Unit.CONVERT: Limit.CONVERT,
    Unit.MATRIX_BITS: Limit.MATRIX,
    Unit.MATRIX_BYTES: Limit.MATRIX,
}


@dataclass(frozen=True)
class Estimate:
    """What the model says of a kernel.

    Attributes:
        clocks: of the whole launch.
        limit: what they are bound by.
        block_clocks: of one block, by what could bound it.
        resident: blocks that a multiprocessor holds at once.
        waves: how often it is filled.
    """

    clocks: float
    limit: Limit
    block_clocks: dict[Limit, float]
    resident: int
    waves: int


def resident_blocks(card: Card, threads: int, registers: int, shared_bytes: int) -> int:
    """Blocks that a multiprocessor holds at once.

    Args:
        card: the card.
        threads: of a block.
        registers: of a thread.
        shared_bytes: of a block.

    Raises:
        TuneError: not one.
    """
    warps = -(-threads // _LANES)
    each = -(-registers * _LANES // _REGISTERS_AT_ONCE) * _REGISTERS_AT_ONCE * warps
    fitting = min(
        card.blocks,
        card.threads // (warps * _LANES),
        card.registers // max(each, 1),
        card.shared_bytes // (shared_bytes + _SHARED_RESERVED),
    )
    if fitting < 1:
        raise TuneError(
            f"a block of {threads} threads with {registers} registers each and {shared_bytes} "
            f"bytes of shared memory does not fit a multiprocessor of the {card.name}"
        )
    return fitting


def estimate(card: Card, counts: LaunchCounts, registers: int, tensor_bytes: int) -> Estimate:
    """Model a launch.

    Args:
        card: where.
        counts: of one block, see `cuda_emulator.Device.take_counts`.
        registers: of a thread, as ptxas says.
        tensor_bytes: of all tensors that the kernel reads and writes.

    Raises:
        TuneError: a block does not fit the card.
    """
    resident = resident_blocks(card, counts.threads, registers, counts.shared_bytes)
    found = dict.fromkeys(Limit, 0.0)
    issued = sum(n for unit, n in counts.instructions.items() if unit is not Unit.NONE)
    for unit, number in counts.instructions.items():
        if unit in _LIMITS and number:
            found[_LIMITS[unit]] += number / card.rates[unit]
    found[Limit.ISSUE] = issued / _SCHEDULERS
    found[Limit.SHARED] = float(counts.shared_wavefronts)
    found[Limit.CACHE] = (counts.load_sectors + counts.store_sectors) * _SECTOR / card.l2_bytes
    busiest = max(found, key=lambda limit: found[limit])
    on_one = -(-counts.blocks // card.multiprocessors)
    waves = -(-on_one // resident)
    warps = -(-counts.threads // _LANES)
    found[Limit.LATENCY] = _LATENCY + _CHAIN * issued / warps
    found[Limit.MEMORY] = tensor_bytes / card.dram_bytes / max(counts.blocks, 1)
    whole = {
        busiest: on_one * found[busiest],
        Limit.LATENCY: waves * found[Limit.LATENCY],
        Limit.MEMORY: tensor_bytes / card.dram_bytes,
    }
    limit = max(whole, key=lambda each: whole[each])
    return Estimate(whole[limit], limit, found, resident, waves)
