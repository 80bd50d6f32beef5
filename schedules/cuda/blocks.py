"""Queries and steps that the CUDA rules share."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from tvm_insta.schedules.base import NotApplicable, blocks, extent, is_output, is_reduction

WARP = 32
"""Threads that execute together."""

SHARED_BYTES = 48 << 10
"""What a block has of shared memory on every card, without opting in to more."""

THREADS = 128
"""Threads of a block of element-wise work: four warps, one for each scheduler of an SM."""


def outputs(schedule: s_tir.Schedule) -> list[Any]:
    """The blocks that write an output of the function."""
    return [block for block in blocks(schedule) if is_output(schedule, block)]


def inline_all(schedule: s_tir.Schedule) -> None:
    """Inline every element-wise block into its consumers, or else into its producer.

    Raises:
        NotApplicable: one fits neither way.
    """
    for block in blocks(schedule):
        if is_reduction(schedule, block) or is_output(schedule, block):
            continue
        try:
            schedule.compute_inline(block)
        except s_tir.ScheduleError:
            raise NotApplicable from None


def split_batch(schedule: s_tir.Schedule, loops: list[Any]) -> tuple[Any, list[Any]]:
    """The loop of a batch of unknown size, or None, and the other loops.

    Loops of one step in front of the batch's become one with it.
    """
    sizes = [extent(schedule, loop) for loop in loops]
    if None not in sizes:
        return None, loops
    at = sizes.index(None)
    if any(size != 1 for size in sizes[:at]):
        return None, loops
    batch = schedule.fuse(*loops[: at + 1]) if at else loops[0]
    return batch, loops[at + 1 :]


def flatten(schedule: s_tir.Schedule, loops: list[Any]) -> Any:
    """Fuse loops; a batch of unknown size in front becomes the second dimension of the grid.

    So all indices within an image are divided by constants. A grid has at most 65535 blocks along
    that dimension, which the driver checks.
    """
    batch, rest = split_batch(schedule, loops)
    if batch is not None and rest:
        schedule.bind(batch, "blockIdx.y")
        loops = rest
    elif batch is not None:
        loops = [batch]
    return schedule.fuse(*loops) if len(loops) > 1 else loops[0]


def bind_flat(schedule: s_tir.Schedule, loops: list[Any], threads: int = THREADS) -> Any:
    """Share the steps of loops out, one to a thread; returns the loop of the threads."""
    outer, inner = schedule.split(flatten(schedule, loops), factors=[None, threads])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
    return inner


def spatial_loops(schedule: s_tir.Schedule, block: Any) -> list[Any]:
    """The loops of a block that are not of its sum.

    Raises:
        NotApplicable: the loops are not one for each of its axes, or stand in another order.
    """
    loops = list(schedule.get_loops(block))
    axes = list(schedule.get(block).iter_vars)
    if len(loops) != len(axes):
        raise NotApplicable
    kinds = [axis.iter_type == tirx.IterVar.DataPar for axis in axes]
    count = sum(kinds)
    if not all(kinds[:count]):
        raise NotApplicable
    return loops[:count]
