"""Arm with NEON: 128-bit vectors, not tuned yet.

AArch64 has 32 vector registers, armv7 has sixteen. A popcount of 32-bit lanes is `cnt` on bytes and
two widening pairwise additions, which takes one temporary.
"""

from __future__ import annotations

from .common import Family

NEON = Family("neon", lanes=4, accumulators=16, float_accumulators=16, word_mask="or")
ARMV7 = Family("armv7", lanes=4, accumulators=8, float_accumulators=8, word_mask="or")


def family(triple: str) -> Family:
    """The family of an Arm target triple."""
    return NEON if triple.startswith(("aarch64", "arm64")) else ARMV7
