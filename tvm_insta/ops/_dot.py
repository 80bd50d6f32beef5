"""Dot products of two or four narrow numbers in one 32-bit lane, added to a sum.

    tirx.insta_dot_bf16(sum, a, b)   float32 + a0 * b0 + a1 * b1, a and b two bfloat16 each
    tirx.insta_dot_int8(sum, a, b)   int32 + sum of a_i * b_i, a four uint8, b four int8
    tirx.insta_dot_signed(sum, a, b) int32 + sum of a_i * b_i, a and b four int8 each

a and b are uint32, the first number in the lowest bits. On vectors these are one instruction: x86's
`vdpbf16ps` (AVX-512 BF16; it flushes subnormal numbers and rounds to nearest) and `vpdpbusd`
(AVX-512 VNNI or AVX-VNNI), and AArch64's `sdot` (dotprod). On single lanes, where a module runs
unscheduled, they are written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx
from tvm_ffi import structural_map

BF16, INT8 = "tirx.insta_dot_bf16", "tirx.insta_dot_int8"
SIGNED = "tirx.insta_dot_signed"
_PURE = 1  # TVM's CallEffectKind


def llvm_functions() -> str:
    """LLVM IR of the functions that vectors of bfloat16 need: TVM knows no such vector."""
    return "\n".join(_function(lanes) for lanes in (4, 8, 16))


def _function(lanes: int) -> str:
    bits, pairs = 32 * lanes, 2 * lanes
    sums, words, halves = f"<{lanes} x float>", f"<{lanes} x i32>", f"<{pairs} x bfloat>"
    called = f"@llvm.x86.avx512bf16.dpbf16ps.{bits}"
    return f"""
declare {sums} {called}({sums}, {halves}, {halves})
define internal {sums} @insta_dot_bf16x{lanes}({sums} %s, {words} %a, {words} %b) alwaysinline {{
  %x = bitcast {words} %a to {halves}
  %y = bitcast {words} %b to {halves}
  %r = call {sums} {called}({sums} %s, {halves} %x, {halves} %y)
  ret {sums} %r
}}"""


def _lower_bf16(call: tirx.Call) -> tirx.Expr:
    total, a, b = call.args
    lanes = tvm.DataType(str(b.ty.dtype)).lanes
    if lanes > 1:
        name = f"insta_dot_bf16x{lanes}"
        return tirx.call_pure_extern(f"float32x{lanes}", name, total, a, b)
    for shift, mask in ((16, 0xFFFFFFFF), (0, 0xFFFF0000)):
        first, second = (
            tirx.reinterpret(
                "float32", (x << tirx.const(shift, "uint32")) & tirx.const(mask, "uint32")
            )
            for x in (a, b)
        )
        total = total + first * second
    return total


def _lower_int8(call: tirx.Call) -> tirx.Expr:
    return _sum_of_four(call, lambda lanes: f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", signed=False)


def _lower_signed(call: tirx.Call) -> tirx.Expr:
    return _sum_of_four(
        call, lambda lanes: f"llvm.aarch64.neon.sdot.v{lanes}i32.v{4 * lanes}i8", signed=True
    )


def _sum_of_four(call: tirx.Call, instruction: Callable[[int], str], *, signed: bool) -> tirx.Expr:
    total, a, b = call.args
    lanes = tvm.DataType(str(b.ty.dtype)).lanes
    if lanes > 1:
        bytes_a, bytes_b = (tirx.reinterpret(f"int8x{4 * lanes}", x) for x in (a, b))
        name = instruction(lanes)
        return tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, total, bytes_a, bytes_b)
    for shift in (0, 8, 16, 24):
        by = tirx.const(shift, "uint32")
        number = (a >> by).astype("uint8")
        first = (number.astype("int8") if signed else number).astype("int32")
        second = (b >> by).astype("uint8").astype("int8").astype("int32")
        total = total + first * second
    return total


for _name, _lower in ((BF16, _lower_bf16), (INT8, _lower_int8), (SIGNED, _lower_signed)):
    tvm.ir.register_op_attr(_name, "TVectorizable", True)
    tvm.ir.register_op_attr(_name, "TCallEffectKind", _PURE)
    tvm.ir.register_op_attr(_name, "TScriptPrinterName", _name.removeprefix("tirx."))
    tirx.register_intrin_lowering(_name, target="default", f=_lower, level=10)


def product(name: str, a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    """One dot product, to be summed by `te.sum`; `sum_products` then joins it with the sum."""
    dtype = "float32" if name == BF16 else "int32"
    return tirx.call_intrin(dtype, name, tirx.const(0, dtype), a, b)


def sum_products(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """``sum + dot(0, a, b)`` becomes ``dot(sum, a, b)``, which TE has no sum for."""

    def store(node: Any) -> Any:
        value = node.value
        if not isinstance(value, tirx.Add) or not isinstance(value.b, tvm.ir.Call):
            return node
        if getattr(value.b.op, "name", "") not in (BF16, INT8, SIGNED):
            return node
        _, a, b = value.b.args
        joined = tirx.call_intrin(str(value.a.ty.dtype), value.b.op.name, value.a, a, b)
        return tirx.BufferStore(node.buffer, joined, node.indices)

    return structural_map(function, [(tirx.BufferStore, store)])
