"""Indices without the divisions that a batch of unknown size leaves in them.

A reshape of `[batch, 1, C]` to `[batch, C]` reads `[(c // C + n) % batch, 0, c % C]`, since TVM
does not ask how far its axes go. Schedules cannot look through such an index.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm_ffi import structural_map


def with_simple_indices(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with quotients and remainders simplified by the extents of each block's axes."""

    def of_block(block: Any) -> Any:
        analyzer = tvm.sym.Analyzer()
        axes = [(axis.var, axis.dom.extent) for axis in block.iter_vars]
        for axis in block.iter_vars:
            analyzer.bind(axis.var, axis.dom)

        def simple(node: Any) -> Any:
            found = analyzer.simplify(node)
            if isinstance(found, tirx.FloorMod):
                for var, extent in axes:  # TVM proves this for numbers only
                    if found.a.same_as(var) and found.b.same_as(extent):
                        return var
            return found

        return structural_map(block, [(kind, simple) for kind in (tirx.FloorDiv, tirx.FloorMod)])

    return function.with_body(structural_map(function.body, [(s_tir.SBlock, of_block)]))
