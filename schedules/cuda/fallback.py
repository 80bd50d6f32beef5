"""CUDA: one thread per output element, by TVM's fallback rule. Correct, not tuned.

TVM's reduction rules are left out on purpose: they split a sum over threads, and the order of the
float sums (of `insta.moments` above all) is part of what an operator means.
"""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.ir import IRModule
from tvm.s_tir import dlight


def bind(function: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc | None:
    """Bind a PrimFunc to the blocks and threads of a GPU.

    Returns:
        The scheduled function, or None if TVM's rule does not apply to it.
    """
    with target:
        mod = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())(IRModule({"main": function}))
    bound = mod["main"]
    scheduled = bound.attrs is not None and bound.attrs.get("tirx.is_scheduled", 0)
    return bound if scheduled else None
