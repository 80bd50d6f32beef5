"""Counts of the bits of bytes, for CPUs that count no others: x86 before VPOPCNTDQ.

A lane of 32 bits holds four counts of a byte each, side by side. LLVM computes them by two look-ups
with `pshufb`, or by shifts and masks where there is none.

    tirx.insta_byte_counts(word)   uint32 -> uint32
"""

from __future__ import annotations

import tvm
from tvm import tirx

_NAME = "tirx.insta_byte_counts"
_PURE = 1  # TVM's CallEffectKind


def _lower(call: tirx.Call) -> tirx.Expr:
    """``popcount`` of the bytes of a word, or of the words of a vector."""
    (word,) = call.args
    lanes = tvm.DataType(str(word.ty.dtype)).lanes
    if lanes == 1:
        return _scalar(word)
    count = tirx.popcount(tirx.reinterpret(f"uint8x{4 * lanes}", word))
    return tirx.reinterpret(str(word.ty.dtype), count)


def _scalar(word: tirx.Expr) -> tirx.Expr:
    """The same for one word, in plain integers: twos, then fours, then eights of bits."""

    def part(value: tirx.Expr, shift: int, mask: int) -> tirx.Expr:
        return (value >> tirx.const(shift, "uint32")) & tirx.const(mask, "uint32")

    twos = word - part(word, 1, 0x55555555)
    fours = part(twos, 0, 0x33333333) + part(twos, 2, 0x33333333)
    return part(fours + part(fours, 4, 0x0FFFFFFF), 0, 0x0F0F0F0F)


tvm.ir.register_op_attr(_NAME, "TVectorizable", True)
tvm.ir.register_op_attr(_NAME, "TCallEffectKind", _PURE)
tvm.ir.register_op_attr(_NAME, "TScriptPrinterName", _NAME.removeprefix("tirx."))
tirx.register_intrin_lowering(_NAME, target="default", f=_lower, level=10)


def byte_counts(word: tirx.Expr) -> tirx.Expr:
    """uint32 -> uint32: each byte of the result is the number of 1 bits of that byte."""
    return tirx.call_intrin("uint32", _NAME, word)


def total(counts: tirx.Expr) -> tirx.Expr:
    """The sum of the four bytes of a uint32, as uint32."""
    pairs = tirx.const(0x00FF00FF, "uint32")
    halves = (counts & pairs) + ((counts >> tirx.const(8, "uint32")) & pairs)
    low = halves & tirx.const(0xFFFF, "uint32")
    return low + (halves >> tirx.const(16, "uint32"))
