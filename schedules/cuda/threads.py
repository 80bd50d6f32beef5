"""The rule for everything: a thread for each output, which computes what it needs by itself."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from tvm_insta.schedules.base import NotApplicable, blocks, is_output, is_reduction
from tvm_insta.schedules.cuda.blocks import bind_flat, inline_all, outputs, spatial_loops


def schedule_threads(schedule: s_tir.Schedule) -> None:
    """One kernel: sums are computed, in order, by the thread that writes the output.

    Raises:
        NotApplicable: the function has several outputs, or a sum is read by more than its thread.
    """
    inline_all(schedule)
    if len(outputs(schedule)) != 1:
        raise NotApplicable
    (output,) = outputs(schedule)
    thread = bind_flat(schedule, spatial_loops(schedule, output))
    for block in reversed(blocks_before(schedule, output)):
        if not _is_read_once(schedule, block):
            raise NotApplicable
        schedule.compute_at(block, thread, preserve_unit_loops=True)
        schedule.set_scope(block, 0, "local")
        split_start(schedule, block)
    if is_reduction(schedule, output):
        split_start(schedule, output)


def schedule_stages(schedule: s_tir.Schedule) -> None:
    """A kernel for each step, with global memory between them: what fits no other rule."""
    for block in blocks(schedule):
        if not is_reduction(schedule, block) and not is_output(schedule, block):
            try:
                schedule.compute_inline(block)
            except s_tir.ScheduleError:
                continue
    for block in blocks(schedule):
        loops = spatial_loops(schedule, block)
        if not loops:  # a single number
            loops = [schedule.add_unit_loop(block)]
        bind_flat(schedule, loops)


def blocks_before(schedule: s_tir.Schedule, output: Any) -> list[Any]:
    """All blocks but the output, in order."""
    last = schedule.get(output).name_hint
    return [block for block in blocks(schedule) if schedule.get(block).name_hint != last]


def _is_read_once(schedule: s_tir.Schedule, block: Any) -> bool:
    """Whether a thread needs one element of what the block writes: no window, and no sum of it."""
    made = schedule.get(block).writes[0].source
    consumers = list(schedule.get_consumers(block))
    return not any(is_reduction(schedule, consumer) for consumer in consumers) and all(
        int(axis.extent) == 1
        for consumer in consumers
        for region in schedule.get(consumer).reads
        if region.source.same_as(made)
        for axis in region.region
    )


def split_start(schedule: s_tir.Schedule, block: Any) -> None:
    """Set the sum to its start before its loop, and not in a condition within it."""
    kinds = [axis.iter_type for axis in schedule.get(block).iter_vars]
    count = kinds.count(tirx.IterVar.CommReduce)
    if count:
        schedule.decompose_reduction(block, list(schedule.get_loops(block))[-count])
