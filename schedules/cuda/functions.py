"""exp, tanh and sigmoid of float32 whose bits are the same on every card.

CUDA's own take a step that the PTX ISA defines up to an error only (ex2.approx). In float64 they
are made of sums, products and divisions, and the rounding to float32 leaves nothing of their error
but in rare ties.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm_ffi import structural_map

# Below it, x - x**3 / 3 is tanh(x) to 2**-48; above, 1 - 2 / (exp(2 x) + 1) loses 12 of 53 bits.
_SMALL = 2.0**-12


def _tanh(x: Any) -> Any:
    one, two, third = (tirx.const(value, "float64") for value in (1.0, 2.0, 1 / 3))
    near = x - x * x * x * third
    far = one - two / (tirx.exp(two * x) + one)
    small = tirx.const(_SMALL, "float64")
    return tirx.Select(tirx.all(x < small, x > -small), near, far)


def _sigmoid(x: Any) -> Any:
    one = tirx.const(1.0, "float64")
    return one / (one + tirx.exp(tirx.const(0.0, "float64") - x))


_DEFINED = {"tirx.exp": tirx.exp, "tirx.tanh": _tanh, "tirx.sigmoid": _sigmoid}


def with_defined_functions(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with its calls of exp, tanh and sigmoid of float32 in float64."""

    def replace(call: Any) -> Any:
        form = _DEFINED.get(getattr(call.op, "name", ""))
        if form is None or str(call.ty.dtype) != "float32":
            return call
        return form(call.args[0].astype("float64")).astype("float32")

    return function.with_body(structural_map(function.body, [(tvm.ir.Call, replace)]))
