"""Comparison and packing of images with a border around them, in one kernel: a thread for a word.

The loops stay apart here: a block of threads has neighbouring columns, and all words of a pixel.
"""

from __future__ import annotations

from tvm import s_tir

from tvm_insta.schedules.base import NotApplicable, blocks, extent, rule_of
from tvm_insta.schedules.cuda.blocks import THREADS, inline_all, outputs, spatial_loops
from tvm_insta.schedules.cuda.threads import split_start


def schedule_pack(schedule: s_tir.Schedule) -> None:
    """Words of bits of an image, `[N, H, W, words]`, whose border is in the sum, see `border`.

    Raises:
        NotApplicable: the function does not pack, or packs in another form.
    """
    marked = [block for block in blocks(schedule) if rule_of(schedule, block) == "insta_pack"]
    if len(marked) != 1 or len(outputs(schedule)) != 1:
        raise NotApplicable
    inline_all(schedule)
    (pack,) = marked
    if len(blocks(schedule)) != 1:
        raise NotApplicable
    output = schedule.cache_write(pack, 0, "local")
    loops = spatial_loops(schedule, output)
    if len(loops) != 4:
        raise NotApplicable
    image, row, column, word = loops
    words = extent(schedule, word)
    if words is None or words > THREADS:
        raise NotApplicable
    far, near = schedule.split(column, factors=[None, max(1, THREADS // words)])
    schedule.bind(image, "blockIdx.z")
    schedule.bind(row, "blockIdx.y")
    schedule.bind(far, "blockIdx.x")
    schedule.bind(near, "threadIdx.y")
    schedule.bind(word, "threadIdx.x")
    schedule.compute_at(pack, word, preserve_unit_loops=True)
    split_start(schedule, pack)
