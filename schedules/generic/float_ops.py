"""Everything that is no convolution and no packing: moments, pools, reductions, element-wise code.

The order of every float sum is kept: reduction loops stay serial and in order. Lanes run along
the last axis of the output where it is also the last axis of the input (channels: pools, means,
moments). Where the sum itself runs along the last axis of the input (a dense layer, a softmax),
several outputs are computed side by side instead, which hides the latency of the additions.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import ScheduleError

from tvm_insta.schedules.base import (
    Kernel,
    OtherKind,
    blocks,
    collect,
    elementwise_pass,
    extent,
    is_output,
    is_reduction,
    largest_divisor,
    name_of,
    parallelise,
    reads_in_place,
    vectorise_last,
    worth_threads,
)

# Vectors of channels whose sums a reduction holds in registers.
_REDUCTION_VECTORS = 4

# Outputs that a reduction along the last axis computes side by side.
_SIDE_BY_SIDE = 8


def schedule_elementwise(kernel: Kernel) -> tuple[str, None]:
    """Element-wise, broadcast and layout functions: one pass per output."""
    schedule = kernel.schedule
    if not blocks(schedule):
        raise OtherKind
    if any(is_reduction(schedule, block) for block in blocks(schedule)):
        raise OtherKind
    for block in blocks(schedule):
        if not is_output(schedule, block):
            schedule.compute_inline(block)
    for block in blocks(schedule):
        elementwise_pass(kernel, block)
    return "elementwise", None


def schedule_reduction(kernel: Kernel) -> tuple[str, None]:
    """Moments, pools, means, softmax, dense: every reduction in a nest of its own.

    Returns:
        The name "moments", "pool" or "reduction".
    """
    schedule = kernel.schedule
    names = [name_of(schedule, block) for block in blocks(schedule)]
    if not any(is_reduction(schedule, block) for block in blocks(schedule)):
        raise OtherKind
    for block in blocks(schedule):
        if not (is_reduction(schedule, block) or is_output(schedule, block)):
            _inline_cheap(schedule, block)
    remaining = blocks(schedule)
    reductions = [block for block in remaining if is_reduction(schedule, block)]
    alone = (
        len(reductions) == 1
        and len(remaining) == 2
        and remaining[0].same_as(reductions[0])
        and is_output(schedule, remaining[1])
        and reads_in_place(schedule, remaining[1], remaining[0])
    )
    for block in remaining:
        if not is_reduction(schedule, block):
            if not alone:
                elementwise_pass(kernel, block)
        else:
            reduction_nest(kernel, block, remaining[1:] if alone else [])
    return reduction_kind(names), None


def reduction_kind(names: list[str]) -> str:
    """What a function with reduction blocks is called in the records, by its block names."""
    if "moment_rows" in names:
        return "moments"
    return "pool" if any("pool" in name for name in names) else "reduction"


def _inline_cheap(schedule: Any, block: Any) -> None:
    """Inline a block into its consumers, unless that would repeat a costly function."""
    calls = collect(schedule.get(block).body, tvm.ir.Call)
    if all(str(getattr(call.op, "name", "")).endswith("if_then_else") for call in calls):
        try:
            schedule.compute_inline(block)
        except ScheduleError:
            return


def reduction_nest(kernel: Kernel, block: Any, consumers: list[Any]) -> None:
    """Loops of one reduction block; `consumers` are computed where its sums are complete."""
    schedule = kernel.schedule
    loops = schedule.get_loops(block)
    count = sum(
        v.iter_type == tirx.IterVar.DataPar for v in schedule.get(block).iter_vars
    )  # spatial axes come first in a block made from TE
    spatial, reduction = loops[:count], loops[count:]
    if not spatial or not reduction:
        return
    threads = worth_threads(schedule, loops)
    *outer, last = spatial
    size = extent(schedule, last)
    along_channels = _reads_along(schedule, block)
    lanes = kernel.lanes if along_channels else _SIDE_BY_SIDE
    width = 1 if size is None else lanes if size % lanes == 0 else largest_divisor(size, lanes)
    if width == 1:
        schedule.reorder(*spatial, *reduction)
        inner: list[Any] = []
        outer = spatial
    else:
        held = largest_divisor((size or 1) // width, _REDUCTION_VECTORS) if along_channels else 1
        block_loop, vector, lane = schedule.split(last, [None, held, width])
        schedule.reorder(*outer, block_loop, *reduction, vector, lane)
        outer, inner = [*outer, block_loop], [vector, lane]
    for consumer in consumers:
        schedule.reverse_compute_at(consumer, outer[-1], preserve_unit_loops=True)
        schedule.set_scope(block, 0, "local")
    if threads:
        parallelise(schedule, outer)
    for consumer in consumers:
        vectorise_last(schedule, schedule.get_loops(consumer), kernel.lanes)
    if inner:
        schedule.unroll(inner[0])
        (schedule.vectorize if along_channels else schedule.unroll)(inner[1])
    schedule.decompose_reduction(block, reduction[0])


def _reads_along(schedule: Any, block: Any) -> bool:
    """Whether the last spatial axis of a reduction is the last axis of what it sums."""
    body = schedule.get(block)
    last = [v.var for v in body.iter_vars if v.iter_type == tirx.IterVar.DataPar][-1]
    summed = [v.var for v in body.iter_vars if v.iter_type == tirx.IterVar.CommReduce]
    for region in body.reads:
        if not region.region or region.source.same_as(body.writes[0].source):
            continue
        used = collect(region.region[-1].min, tirx.Var)
        if any(v.same_as(s) for v in used for s in summed):
            return False
        if any(v.same_as(last) for v in used):
            return True
    return False
