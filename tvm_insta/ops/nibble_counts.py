"""Bit counts by table look-ups, in which the activation chooses the table and the weight the entry.

Four bits of an activation, d, meet four bits of a weight, w. Their count is entry w of table d:

    table[d][w] = popcount(d ^ w)

All lanes of a vector hold weights of one tap for neighbouring output channels, so they meet the
same d. A look-up is one `pshufb` of the table in 16 bytes by a vector of weights, and counts four
bits for each byte of the vector: two instructions, with the addition, where a XOR and look-ups of
its result take eight for twice as many bits. Weights lie in memory as the look-up takes them, four
bits in a byte. T-MAC (Wei et al., 2024) computes matrix products of low-bit weights by such tables.

    tirx.insta_nibble_counts(d, w)   uint32 below 16, uint8 below 16 -> uint8
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

BITS = 4
"""Bits of a nibble."""

NIBBLE_COUNTS = "tirx.insta_nibble_counts"
"""Name of the intrinsic."""

_PURE = 1  # TVM's CallEffectKind
_SHUFFLES = {16: "ssse3.pshuf.b.128", 32: "avx2.pshuf.b", 64: "avx512.pshuf.b.512"}
"""LLVM's x86 intrinsics by the bytes of a vector."""


def llvm_functions() -> str:
    """LLVM IR of the tables and of the functions that look up in them."""
    counts = (entry ^ table for table in range(1 << BITS) for entry in range(1 << BITS))
    values = ", ".join(f"i8 {bits.bit_count()}" for bits in counts)
    tables = f"@insta_nibble_tables = internal constant [256 x i8] [{values}], align 16"
    return "\n".join([tables, *(_function(lanes) for lanes in _SHUFFLES)])


def _function(lanes: int) -> str:
    """All lanes of %d are the same: the first one chooses the table."""
    vector, words = f"<{lanes} x i8>", f"<{lanes} x i32>"
    called = f"@llvm.x86.{_SHUFFLES[lanes]}"
    entries = ", ".join(f"i32 {lane % 16}" for lane in range(lanes))
    return f"""
declare {vector} {called}({vector}, {vector})
define internal {vector} @insta_nibble_counts_x{lanes}({words} %d, {vector} %w) alwaysinline {{
  %first = extractelement {words} %d, i32 0
  %at = zext i32 %first to i64
  %from = getelementptr [16 x i8], ptr @insta_nibble_tables, i64 %at
  %row = load <16 x i8>, ptr %from, align 16
  %table = shufflevector <16 x i8> %row, <16 x i8> poison, {words} <{entries}>
  %counts = call {vector} {called}({vector} %table, {vector} %w)
  ret {vector} %counts
}}"""


def _lower(call: tirx.Call) -> tirx.Expr:
    d, w = call.args
    lanes = tvm.DataType(str(w.ty.dtype)).lanes
    if lanes in _SHUFFLES:
        return tirx.call_pure_extern(f"uint8x{lanes}", f"insta_nibble_counts_x{lanes}", d, w)
    return tirx.popcount(d.astype(str(w.ty.dtype)) ^ w)


tvm.ir.register_op_attr(NIBBLE_COUNTS, "TVectorizable", True)
tvm.ir.register_op_attr(NIBBLE_COUNTS, "TCallEffectKind", _PURE)
tvm.ir.register_op_attr(NIBBLE_COUNTS, "TScriptPrinterName", NIBBLE_COUNTS.removeprefix("tirx."))
tirx.register_intrin_lowering(NIBBLE_COUNTS, target="default", f=_lower, level=10)


def nibble(word: tirx.Expr, position: Any) -> tirx.Expr:
    """Nibble `position` of a uint32, the lowest is 0."""
    shift = (position * BITS).astype("uint32")
    return (word >> shift) & tirx.const((1 << BITS) - 1, "uint32")


def nibble_counts(d: tirx.Expr, w: tirx.Expr) -> tirx.Expr:
    """popcount(d ^ w) of a uint32 and a uint8, both below 16, as uint8."""
    return tirx.call_intrin("uint8", NIBBLE_COUNTS, d, w)
