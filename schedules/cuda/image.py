"""Small functions of several sums, such as thresholds of moments: one block of threads an image.

Each step's results go to shared memory, where all threads of the block find them. A sum stays
within one thread, and in its order.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm import s_tir, tirx

from tvm_insta.schedules.base import NotApplicable, blocks, extent, is_output, is_reduction
from tvm_insta.schedules.cuda.blocks import (
    SHARED_BYTES,
    THREADS,
    outputs,
    spatial_loops,
    split_batch,
)
from tvm_insta.schedules.cuda.threads import blocks_before, split_start

_FEW = 2048  # outputs of an image that one block of threads computes


def schedule_image(schedule: s_tir.Schedule) -> None:
    """A block of threads for each image, the first axis of the output.

    Raises:
        NotApplicable: there are no sums before the output, or an image is too large.
    """
    _inline(schedule)
    if len(outputs(schedule)) != 1:
        raise NotApplicable
    (output,) = outputs(schedule)
    before = blocks_before(schedule, output)
    if not any(is_reduction(schedule, block) for block in before):
        raise NotApplicable
    loops = spatial_loops(schedule, output)
    sizes = [_bytes(schedule, block) for block in before]
    if sum(sizes) > SHARED_BYTES or _count(schedule, output) > _FEW:
        raise NotApplicable
    image, rest = split_batch(schedule, loops)
    if image is None:
        image, *rest = loops
    if not rest:
        raise NotApplicable
    for block in reversed(before):
        schedule.compute_at(block, image, preserve_unit_loops=True)
        schedule.set_scope(block, 0, "shared")
        _share_out(schedule, _inside(schedule, block))
    _share_out(schedule, rest)
    schedule.bind(image, "blockIdx.x")
    for block in (*before, output):
        split_start(schedule, block)


def _inline(schedule: s_tir.Schedule) -> None:
    """Inline element-wise blocks but those that a sum reads: it would compute them every time."""
    for block in blocks(schedule):
        if is_reduction(schedule, block) or is_output(schedule, block):
            continue
        consumers = schedule.get_consumers(block)
        if not any(is_reduction(schedule, consumer) for consumer in consumers):
            schedule.compute_inline(block)


def _inside(schedule: s_tir.Schedule, block: Any) -> list[Any]:
    """The loops of a block below the image's that are not of its sum."""
    axes = list(schedule.get(block).iter_vars)
    loops = list(schedule.get_loops(block))[-len(axes) :]
    spatial = [axis.iter_type == tirx.IterVar.DataPar for axis in axes]
    count = sum(spatial)
    if not all(spatial[:count]):
        raise NotApplicable
    return loops[:count]


def _share_out(schedule: s_tir.Schedule, loops: list[Any]) -> None:
    fused = schedule.fuse(*loops) if len(loops) > 1 else loops[0]
    _, thread = schedule.split(fused, factors=[None, THREADS])
    schedule.bind(thread, "threadIdx.x")


def _count(schedule: s_tir.Schedule, block: Any) -> int:
    """Numbers of an image that a block writes."""
    sizes = [extent(schedule, loop) for loop in spatial_loops(schedule, block)]
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        known = known[1:]
    return math.prod(known)


def _bytes(schedule: s_tir.Schedule, block: Any) -> int:
    """Bytes of an image that a block writes."""
    dtype = tvm.DataType(str(schedule.get(block).writes[0].source.dtype))
    return _count(schedule, block) * int(dtype.bits) // 8
