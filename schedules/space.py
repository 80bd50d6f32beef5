"""The search space: which parameters a function's rule accepts, for a tuner to choose among.

`choices` lists whole parameter sets, each of them legal, so a tuner needs no knowledge of any rule.
A set from this list that is passed to `schedule_module(parameters=...)` is applied as it stands.
"""

from __future__ import annotations

from tvm import tirx

from tvm_insta.schedules.arm.neon_tiles import neon_choices, neon_shape
from tvm_insta.schedules.base import ConvTiles, Family, Kernel, NotApplicable, divisors, start
from tvm_insta.schedules.generic.conv import convolution_shape, own_band, register_budget
from tvm_insta.schedules.generic.pack import pack_choices
from tvm_insta.schedules.x86.amx import tile_choices

SCHEDULE_VERSION = 1
"""Counts the changes of the rules after which a measured time no longer tells which parameters are
best: other loop nests, other meanings of a parameter. New parameters with the old meaning at their
default do not count."""

# Tiles beyond the family's own register budget are worth a measurement up to this factor: the
# budget says what was best on one CPU, not what the architecture has.
_OVER_BUDGET = 2

# Steps beyond which unrolled code is too long for the cache of instructions.
_MOST_UNROLLED = 16


def choices(function: tirx.PrimFunc, family: Family, lanes: int) -> list[ConvTiles]:
    """The parameter sets of a function that are worth a measurement.

    `schedule_module` applies each as it stands. Bands of rows are never longer than those that the
    rules take by themselves: those leave just enough tasks for the threads, which a measurement in
    one thread, or of instructions, does not see.

    Args:
        function: a legalised and fused PrimFunc with static rows and columns.
        family: the CPU family, see `family_of`.
        lanes: 32-bit lanes of a vector register of the target.

    Returns:
        The sets, in a fixed order; empty for a function whose rule has no parameters.
    """
    kernel = Kernel(start(function), family, lanes, ConvTiles())
    try:
        return neon_choices(neon_shape(kernel.schedule, family), family)
    except NotApplicable:  # then it is of another rule
        pass
    try:
        shape = convolution_shape(kernel.schedule, lanes)
    except NotApplicable:
        return _other_choices(kernel)
    budget = register_budget(family, shape.rule) * _OVER_BUDGET
    unrolls = (False, True) if shape.unrolled <= _MOST_UNROLLED else (False,)

    return [
        ConvTiles(across, deep, band, unroll)
        for across in divisors(shape.width)
        for deep in divisors(shape.out_blocks)
        if across * deep <= budget
        for band in divisors(shape.height)
        if band <= own_band(shape.height, shape.out_blocks // deep, padded=shape.padded)
        for unroll in unrolls
    ]


def _other_choices(kernel: Kernel) -> list[ConvTiles]:
    """Those of a binary convolution in AMX tiles, and of a function that only packs bits."""
    for list_them in (tile_choices, pack_choices):
        try:
            return list_them(kernel)
        except NotApplicable:
            continue
    return []
