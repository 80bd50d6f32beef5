"""Statements of device code that rules write by hand: loops, registers, barriers, products."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from tvm_insta.schedules.generic.loops import index

_SPREAD = 0x00204081  # times a number of four bits: each bit at the start of a byte, among others
_FIRST_BITS = 0x01010101


def product(
    shape: str, dtype: str, left: Any, at: int, right: Any, sums: Any, first: int
) -> tirx.Stmt:
    """One instruction: the product of two fragments, added to four sums from `first` on."""
    more = ["and"] if dtype == "int1" else []
    call = tirx.call_intrin(
        "",
        "tirx.ptx_legacy.mma",
        *(shape, "row", "col", dtype, dtype, "int32"),
        *(left.data, index(at), right.data, index(0), sums.data, index(first), False),
        *more,
    )
    return tirx.Evaluate(call)


def spread(word: Any, at: Any, half: int) -> Any:
    """Four bits of a word, from bit `at` of its half on, as bytes."""
    shift = (at + 16 * half).astype("uint32")
    bits = (word >> shift) & tirx.const(15, "uint32")
    return (bits * tirx.const(_SPREAD, "uint32")) & tirx.const(_FIRST_BITS, "uint32")


def variable(name: str) -> Any:
    """A loop's variable."""
    return tirx.Var(name, "int64")


def buffer_of(size: int, dtype: str, name: str, how: dict[str, str]) -> Any:
    """A buffer of one dimension, in a scope."""
    return tirx.decl_buffer([index(size)], dtype, name=name, **how)


def element(buffer: Any, number: int) -> Any:
    """An element of such a buffer."""
    return tirx.BufferLoad(buffer, [index(number)])


def assign(buffer: Any, number: int, value: Any) -> tirx.Stmt:
    """Write an element."""
    return tirx.BufferStore(buffer, value, [index(number)])


def serial(variable: Any, extent: int, body: tirx.Stmt) -> tirx.Stmt:
    """A loop of one thread."""
    return tirx.For(variable, index(0), index(extent), tirx.ForKind.SERIAL, body)


def bound(variable: Any, extent: Any, tag: str, body: tirx.Stmt) -> tirx.Stmt:
    """A loop whose steps are blocks or threads."""
    thread = tirx.IterVar(None, tag, tirx.IterVar.ThreadIndex, tag)
    return tirx.For(variable, index(0), extent, tirx.ForKind.THREAD_BINDING, body, thread)


def barrier() -> tirx.Stmt:
    """All threads of a block wait for each other."""
    return tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared"))
