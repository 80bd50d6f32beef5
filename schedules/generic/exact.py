"""Comparisons of float32 that mean the same where vector instructions flush subnormal numbers.

The vector unit of 32-bit Arm takes every subnormal number for zero, so that 1e-40 >= 2e-40 holds
there. The integers below are in the order of the numbers, and comparing them flushes nothing:

    key(x) = the magnitude bits of x, negated if the sign bit is set

Zero and negative zero have the same key. Flushing makes nothing false but a strict comparison of
two subnormal numbers, and a comparison of floats is false for NaN, which has no key. So

    x > t  is  key(x) > key(t) and x >= t

and likewise for <, >= and <=, each with the comparison of floats that holds for equal numbers.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm_ffi import structural_map

_MAGNITUDE = 0x7FFFFFFF
_WITH_EQUAL = {tirx.GE: tirx.GE, tirx.GT: tirx.GE, tirx.LE: tirx.LE, tirx.LT: tirx.LE}


def exact_comparisons(expression: Any) -> Any:
    """`expression` with every comparison of two float32 done on integers."""

    def compare(node: Any) -> Any:
        if str(node.a.ty.dtype) != "float32":
            return node
        exact = type(node)(_key(node.a), _key(node.b))
        return tirx.And(exact, _WITH_EQUAL[type(node)](node.a, node.b))

    return structural_map(expression, [(kind, compare) for kind in _WITH_EQUAL])


def _key(value: Any) -> Any:
    bits = tirx.call_intrin("int32", "tirx.reinterpret", value)
    sign = bits >> tirx.const(31, "int32")  # 0 or -1
    return ((bits & tirx.const(_MAGNITUDE, "int32")) ^ sign) - sign
