"""Arm with NEON: 128-bit vectors.

AArch64 has 32 vector registers, armv7 has sixteen. How binary convolutions sum is in `neon`; where
they do not fit there (groups, odd channels), a popcount of 32-bit lanes is `cnt` on bytes and two
widening pairwise additions, which takes one temporary. Float convolutions multiply vectors by the
lanes of another. On armv7 that other one has two lanes: with four, LLVM runs out of registers.
"""

from __future__ import annotations

from dataclasses import replace

from tvm_insta.schedules.base import BinarySum, Family, WordMask

NEON = Family(
    "neon",
    lanes=4,
    accumulators=16,
    float_accumulators=16,
    word_mask=WordMask.ADDP,
    binary=BinarySum.BYTES,
    binary_sums=16,
    float_block=16,
    lane_loads=4,
)
NEON_DOT = replace(NEON, name="neon_dot", binary=BinarySum.DOT)
ARMV7 = Family(
    "armv7",
    lanes=4,
    accumulators=8,
    float_accumulators=8,
    word_mask=WordMask.VPADD,
    binary=BinarySum.PAIRS,
    binary_sums=8,
    float_block=16,
    lane_loads=2,
    flushes_subnormals=True,
)


# In-order cores with dot products. llvm-mca gives a Cortex-A55 3.8 cycles per 128 products with
# sums in bytes and 4.2 with dot products, though those take no more instructions.
_IN_ORDER = ("cortex-a55", "cortex-a65", "cortex-a510", "cortex-a520")


def family(triple: str, mcpu: str, features: frozenset[str]) -> Family:
    """The family of an Arm target triple with LLVM's CPU name and feature names."""
    if not triple.startswith(("aarch64", "arm64")):
        return ARMV7
    return NEON_DOT if "dotprod" in features and not mcpu.startswith(_IN_ORDER) else NEON
