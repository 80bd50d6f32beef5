"""Where the blocks of an operator for tiles are in a scheduled function."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm_ffi import structural_map

from tvm_insta.schedules.generic.loops import innermost

_SUM_LOOPS = 3
"""Loops of the sum of a group around those of its terms: rows, pixels and channels."""


def block_of(function: tirx.PrimFunc, name: str) -> Any:
    """The realisation of a block."""
    found: list[Any] = []

    def visit(realize: Any) -> Any:
        if realize.block.name_hint == name:
            found.append(realize)
        return realize

    structural_map(function.body, [(s_tir.SBlockRealize, visit)])
    if len(found) != 1:
        raise ValueError(f"{len(found)} blocks {name}")
    return found[0]


def names_of(nest: Any) -> list[str]:
    """The names of all blocks of a statement."""
    found: list[str] = []

    def visit(block: Any) -> Any:
        found.append(str(block.name_hint))
        return block

    structural_map(nest, [(s_tir.SBlock, visit)])
    return found


def loops_of_sum(nest: Any, name: str) -> list[Any]:
    """The variables of the loops of the sum `name` of a group, outermost first."""
    if isinstance(nest, tirx.SeqStmt):
        return next((found for each in nest.seq if (found := loops_of_sum(each, name))), [])
    if not isinstance(nest, tirx.For):
        return []
    if is_sum(nest, name):
        return [loop.loop_var for loop in _perfect(nest)]
    return loops_of_sum(nest.body, name)


def is_sum(nest: Any, name: str) -> bool:
    """Whether a nest is the sum `name` of a group; the loops over groups may be perfect around it.

    The terms have loops over kernel rows and units, and over the numbers of a unit if these are not
    written out.
    """
    inner = innermost(nest)
    if inner is None or inner.block.name_hint != name:
        return False
    summed = [v for v in inner.block.iter_vars if v.iter_type == tirx.IterVar.CommReduce]
    return len(_perfect(nest)) == _SUM_LOOPS + len(summed)


def _perfect(nest: Any) -> list[Any]:
    """The loops of a perfect nest, outermost first."""
    loops = []
    while isinstance(nest, tirx.For):
        loops.append(nest)
        nest = nest.body
    return loops
