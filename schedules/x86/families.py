"""x86-64: three families by vector width.

Register budgets. AVX-512 has 32 vector registers, AVX2 and SSE have 16. A step of a binary
convolution is xor, popcount, add. With VPOPCNTDQ that takes one temporary; without it LLVM expands
the popcount into shuffles or shifts with several constants and temporaries, so fewer sums fit. Of
the 32 registers of AVX-512 only 14 hold sums: measured on a Zen 4 core, 28 sums are slower, because
their epilogue is a burst of stores and constants that the next tile cannot overlap.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from tvm_insta.schedules.base import BinarySum, Family, WordMask

AVX512 = Family(
    "avx512", lanes=16, accumulators=14, float_accumulators=14, word_mask=WordMask.MOVMSK256
)
AVX512_NO_POPCOUNT = Family(
    "avx512",
    lanes=16,
    accumulators=16,
    float_accumulators=14,
    word_mask=WordMask.MOVMSK256,
    binary=BinarySum.NIBBLES,
    nibble_lanes=64,
)
AVX2 = Family(
    "avx2",
    lanes=8,
    accumulators=8,
    float_accumulators=12,
    word_mask=WordMask.MOVMSK256,
    binary=BinarySum.NIBBLES,
    nibble_lanes=32,
)
SSE = replace(AVX2, name="sse", lanes=4, word_mask=WordMask.MOVMSK128, nibble_lanes=16)
SSE2 = replace(SSE, binary=BinarySum.BYTE_COUNTS, nibble_lanes=0)

# What `amx` uses: tiles of bytes or of bfloat16 numbers, and vectors of bytes and their masks.
AMX = frozenset({"amx-tile", "amx-int8", "avx512bw"})
AMX_BF16 = frozenset({"amx-tile", "amx-bf16", "avx512bw"})


def family(features: Set[str]) -> Family:
    """The family of an x86-64 CPU with LLVM's feature names `features`."""
    if "avx512f" in features:
        own = AVX512 if "avx512vpopcntdq" in features else AVX512_NO_POPCOUNT
        if "avx512bw" not in features:
            own = replace(own, nibble_lanes=32)
        return replace(own, amx_tiles=features >= AMX, amx_bf16=features >= AMX_BF16)
    if "avx2" in features:
        return AVX2
    return SSE if "ssse3" in features else SSE2
