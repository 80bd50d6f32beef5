"""Narrow numbers that lie side by side in memory, loaded as the 32-bit word that they are.

    tirx.insta_word(number)   uint32: the number, which is loaded from a buffer, in the lowest bits,
                              and above it the ones that follow it in the buffer

TE has no index of several elements: an operator writes a word as its numbers, shifted and joined.

    uint32(codes[i]) | uint32(codes[i + 1]) << 8 | uint32(codes[i + 2]) << 16 | ...

LLVM makes one load of that, unless another word has some of the same numbers, as neighbouring
pixels of three channels have: then it keeps the single loads, which both use, and puts every word
together in scalar registers. The order is that of a little-endian machine, as all targets are.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_map

WORD = "tirx.insta_word"
_BITS = 32
_PURE = 1  # TVM's CallEffectKind


def words_at_once(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Load each word of neighbouring uint8 or uint16 numbers at once.

    Args:
        function: scheduled for a CPU; what a block reads stays as it is declared.
    """
    return function.with_body(structural_map(function.body, [(tirx.BitwiseOr, _at_once)]))


def _at_once(joined: Any) -> Any:
    numbers: dict[int, Any] = {}
    if not _collect(joined, 0, numbers) or len(numbers) < 2:
        return joined
    width = _BITS // len(numbers)
    if sorted(numbers) != list(range(0, _BITS, width)):
        return joined
    loads = [numbers[shift] for shift in sorted(numbers)]
    first = loads[0]
    if _bits(first) != width or not all(load.source.same_as(first.source) for load in loads):
        return joined
    *outer, last = first.indices
    analyzer = tvm.sym.Analyzer()
    for position, load in enumerate(loads):
        pairs = zip(load.indices, [*outer, last + position], strict=True)
        if not all(analyzer.can_prove_equal(own, wanted) for own, wanted in pairs):
            return joined
    return tirx.call_intrin("uint32", WORD, first)


def _collect(expr: Any, shift: int, numbers: dict[int, Any]) -> bool:
    """Note the load at each position of a word; False where there is something else."""
    if isinstance(expr, tirx.IntImm):
        return int(expr) == 0
    if isinstance(expr, tirx.Cast):
        if not isinstance(expr.value, TensorLoad) or shift in numbers:
            return False
        numbers[shift] = expr.value
        return True
    if isinstance(expr, tirx.BitwiseOr):
        return _collect(expr.a, shift, numbers) and _collect(expr.b, shift, numbers)
    if isinstance(expr, tirx.LShift) and isinstance(expr.b, tirx.IntImm):
        return _collect(expr.a, shift + int(expr.b), numbers)
    return False


def _bits(load: TensorLoad) -> int:
    return int(tvm.DataType(str(load.ty.dtype)).bits)


def _lower(call: tirx.Call) -> tirx.Expr:
    (load,) = call.args
    (first,) = load.indices  # buffers are flat when intrinsics are lowered
    every = tirx.Ramp(first, tirx.const(1, str(first.ty.dtype)), _BITS // _bits(load))
    return tirx.reinterpret("uint32", tirx.BufferLoad(load.source, [every]))


# The number is the same for all lanes of a loop that is made vectors, which only asks for the name.
tvm.ir.register_op_attr(WORD, "TVectorizable", True)
tvm.ir.register_op_attr(WORD, "TCallEffectKind", _PURE)
tvm.ir.register_op_attr(WORD, "TScriptPrinterName", WORD.removeprefix("tirx."))
tirx.register_intrin_lowering(WORD, target="default", f=_lower, level=10)
