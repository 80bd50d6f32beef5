"""The rule of element-wise kernels with fused consumers: one sweep over the tensor.

    parallel over images and row blocks
      for each row, for each block of channels
        for each pixel: the element-wise code, the sums of the row, the packed bits

A block of channels is a few vectors, so the sums of its row stay in registers along the row.
"""

from __future__ import annotations

from tvm_insta.schedules.base import (
    Kernel,
    NotApplicable,
    OtherKind,
    band_height,
    blocks,
    is_among,
    is_output,
    is_reduction,
    known_extent,
    largest_divisor,
    parallelise,
)
from tvm_insta.schedules.generic.consumers import find_consumers, finish_consumers, fuse_consumers

# Vectors of channels of a block.
_VECTORS = 4


def schedule_fused_elementwise(kernel: Kernel) -> tuple[str, None]:
    """Schedule an element-wise function with `moment_rows` or `threshold_pack` behind it."""
    consumers = find_consumers(kernel)
    schedule = kernel.schedule
    mine = [b for b in blocks(schedule) if not is_among(schedule, b, consumers.all)]
    if not consumers.any or not mine or any(is_reduction(schedule, block) for block in mine):
        raise OtherKind
    *inner, last = mine
    if any(is_output(schedule, block) for block in inner):
        raise NotApplicable("an element-wise function with several outputs")
    for block in inner:
        schedule.compute_inline(block)
    loops = schedule.get_loops(last)
    if len(loops) != 4:
        raise NotApplicable("an element-wise function of another rank than 4")
    batch, row, column, channel = loops
    channels, height = known_extent(schedule, channel), known_extent(schedule, row)
    lanes = largest_divisor(channels, kernel.lanes)
    pack = consumers.pack
    words = pack.lanes if pack is not None and channels % pack.lanes == 0 else 1
    most = max(_VECTORS * lanes, words)
    size = max(d for d in range(lanes, most + 1, lanes) if channels % d == 0 and d % words == 0)
    block, vector, lane = schedule.split(channel, [None, size // lanes, lanes])
    band, row = schedule.split(row, [None, band_height(height, 1)])
    schedule.reorder(batch, band, row, block, column, vector, lane)
    fuse_consumers(kernel, consumers, column, lanes, size)
    parallelise(schedule, [batch, band])
    schedule.unroll(vector)
    if lanes > 1:
        schedule.vectorize(lane)
    finish_consumers(kernel, consumers, column)
    return "sweep", None
