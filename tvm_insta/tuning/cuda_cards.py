"""What the model of kernels for CUDA knows of cards: rates of a multiprocessor, and its room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tvm_insta.cuda_emulator import Unit
from tvm_insta.errors import TuneError

_KIB = 1 << 10


@dataclass(frozen=True)
class Card:
    """A card, as the model sees it.

    Attributes:
        name: of the card whose figures these are.
        multiprocessors: of the card.
        rates: instructions of a warp that a multiprocessor executes a clock, by unit.
        registers, shared_bytes, threads, blocks: what a multiprocessor has room for.
        l2_bytes: bytes a clock between a multiprocessor and the second-level cache.
        dram_bytes: bytes a clock of the card's memory, for the whole card.
        assumed: what is no published figure, in words.
    """

    name: str
    multiprocessors: int
    rates: Mapping[Unit, float]
    registers: int
    shared_bytes: int
    threads: int
    blocks: int
    l2_bytes: float
    dram_bytes: float
    assumed: str = ""


def _rates(
    floats: int, doubles: int, bits: float, bytes_: float, integers: int = 64
) -> dict[Unit, float]:
    """Rates from lanes a clock; the others are the same on all cards that are listed."""
    return {
        Unit.INTEGER: integers / 32,
        Unit.FLOAT: floats / 32,
        Unit.DOUBLE: doubles / 32,
        Unit.POPCOUNT: 16 / 32,
        Unit.CONVERT: 16 / 32,
        Unit.WARP: 32 / 32,
        Unit.MATRIX_BITS: bits,
        Unit.MATRIX_BYTES: bytes_,
        Unit.MEMORY: 32 / 32,
        Unit.CONTROL: 64 / 32,
    }


# Lanes and room: CUDA C++ Programming Guide, "Arithmetic Instructions" and "Technical
# Specifications per Compute Capability". Clocks, memory and tensor cores: NVIDIA's data sheets of
# the card that is named, at its boost clock; an mma.m16n8k256 of bits is 32768 products and sums,
# an mma.m16n8k32 of bytes 4096. Of the H100 the rate of bits is a published measurement (0.54 a
# clock), and that of bytes what mma.sync reaches of its peak, about 62 %.
CARDS: dict[int, Card] = {
    80: Card(
        name="A100 80 GB",
        multiprocessors=108,
        rates=_rates(64, 32, 0.5, 0.5),
        registers=65536,
        shared_bytes=164 * _KIB,
        threads=2048,
        blocks=32,
        l2_bytes=47.0,
        dram_bytes=2039 / 1.41,
    ),
    86: Card(
        name="RTX 3090",
        multiprocessors=82,
        rates=_rates(128, 2, 0.25, 0.25),
        registers=65536,
        shared_bytes=100 * _KIB,
        threads=1536,
        blocks=16,
        l2_bytes=32.0,
        dram_bytes=936 / 1.70,
        assumed="bits at eight times the rate of bytes; bytes a clock of the cache",
    ),
    87: Card(
        name="Jetson AGX Orin",
        multiprocessors=16,
        rates=_rates(128, 2, 0.5, 0.5),
        registers=65536,
        shared_bytes=164 * _KIB,
        threads=1536,
        blocks=16,
        l2_bytes=32.0,
        dram_bytes=204.8 / 1.30,
        assumed="bits at eight times the rate of bytes; bytes a clock of the cache",
    ),
    89: Card(
        name="RTX 4090",
        multiprocessors=128,
        rates=_rates(128, 2, 0.25, 0.25),
        registers=65536,
        shared_bytes=100 * _KIB,
        threads=1536,
        blocks=24,
        l2_bytes=32.0,
        dram_bytes=1008 / 2.52,
        assumed="bits at eight times the rate of bytes; bytes a clock of the cache",
    ),
    90: Card(
        name="H100 SXM",
        multiprocessors=132,
        rates=_rates(128, 64, 0.54, 0.62),
        registers=65536,
        shared_bytes=228 * _KIB,
        threads=2048,
        blocks=32,
        l2_bytes=64.0,
        dram_bytes=3350 / 1.83,
        assumed="bytes a clock of the cache",
    ),
}
"""By architecture, 80 for "sm_80"."""


def card_of(arch: str) -> Card:
    """The card that stands for an architecture.

    Args:
        arch: such as "sm_90".

    Raises:
        TuneError: there are no figures for it.
    """
    digits = arch.removeprefix("sm_").rstrip("af")
    if not digits.isdigit() or int(digits) not in CARDS:
        known = ", ".join(f"sm_{number}" for number in CARDS)
        raise TuneError(f"got the architecture {arch!r}, but there are figures for {known} only")
    return CARDS[int(digits)]
