"""Comparison and packing in one kernel: 32 lanes compare 32 channels, and their bits are one word.

Lanes read neighbouring channels; the bits are put together by shuffles, since they are a sum of
integers of which no two have a bit in common.
"""

from __future__ import annotations

from tvm import s_tir

from ..common import NotApplicable, blocks, is_output, rule_of
from .blocks import WARP, flatten, inline_all, outputs, spatial_loops
from .threads import blocks_before

_WARPS = 4  # words of a block


def schedule_pack(schedule: s_tir.Schedule) -> None:
    """Words of bits, with or without a border around them.

    Raises:
        NotApplicable: the function does not pack, or packs several words for an output.
    """
    marked = [block for block in blocks(schedule) if rule_of(schedule, block) == "insta_pack"]
    if len(marked) != 1 or len(outputs(schedule)) != 1:
        raise NotApplicable
    inline_all(schedule)
    (pack,), (output,) = marked, outputs(schedule)
    loops = spatial_loops(schedule, output)
    block, warp = schedule.split(flatten(schedule, loops), factors=[None, _WARPS])
    schedule.bind(block, "blockIdx.x")
    schedule.bind(warp, "threadIdx.y")
    if not is_output(schedule, pack):
        if len(blocks_before(schedule, output)) != 1:
            raise NotApplicable
        schedule.compute_at(pack, warp, preserve_unit_loops=True)
        schedule.set_scope(pack, 0, "local")
    bit = list(schedule.get_loops(pack))[-1]
    if int(schedule.get(bit).extent) != WARP:
        raise NotApplicable
    schedule.bind(bit, "threadIdx.x")
