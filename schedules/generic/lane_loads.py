"""How float convolutions read their data on NEON: by vectors, of which each lane is multiplied.

NEON multiplies a vector by one lane of another. So the data needs no broadcasts: a vector of four
numbers serves four steps of the sum. Where the channels of a pixel make whole vectors, one vector
of each pixel of a tile is fetched at a time. An image of few channels is fetched as a strip: what a
tile meets in one row of the kernel, whose neighbouring pixels share most of it.

    for ky:
      strip[pixels of the row, channels] = data[...]
      for kx, c (unrolled): sums[pixel, vector] += strip[pixel * stride + kx, c] * weight[vector]

The weights of a block of several vectors are neighbours, and are loaded two vectors at a time.
Narrow numbers (`insta.conv2d_narrow`) are fetched unit by unit: `ld1r` loads four bytes from any
address and broadcasts them.
"""

from __future__ import annotations

from typing import Any

from tvm_insta.schedules.base import known_extent

# Steps of a sum that are unrolled with a strip.
_MOST_STEPS = 32


def strip_cost(across: int, deep: int, strip: int) -> float:
    """Loads per multiplication for a tile of `across` pixels by `deep` vectors.

    A load takes two vectors of weights, or the data of one pixel for `strip` steps.
    """
    return (deep / 2 + across / strip) / (across * deep)


def fetched_at_once(reduction: list[Any], strip: int) -> int:
    """Numbers that a convolution with these reduction loops fetches at a time; 0 for no strips.

    The loops run over ky, kx and channels, or over ky and units of narrow numbers.
    """
    narrow = len(reduction) == len(("ky", "unit"))
    return min(strip, 1) if narrow else strip


def fetch_strip(schedule: Any, conv: Any, reduction: list[Any], strip: int) -> list[Any]:
    """Fetch the data of a tile by vectors, where its form allows that.

    Args:
        schedule: of a convolution whose tile is complete.
        conv: its block.
        reduction: its loops over ky, kx and channels.
        strip: channels to fetch at a time.

    Returns:
        The reduction loops that were not unrolled.
    """
    row, tap, channel = reduction
    data, weight = (region.source for region in schedule.get(conv).reads[:2])
    channels, taps = known_extent(schedule, channel), known_extent(schedule, tap)
    if int(data.shape[-1]) != channels or len(weight.shape) != 5:
        return reduction  # groups
    if channels % strip == 0:
        outer, inner = schedule.split(channel, [None, strip])
        _, _, _, last = _fetch(schedule, conv, outer)
        schedule.vectorize(last)
        schedule.unroll(inner)
        return [row, tap, outer]
    if channels * taps > _MOST_STEPS:
        return reduction
    *_, pixels, last = _fetch(schedule, conv, row)
    schedule.vectorize(schedule.fuse(pixels, last))
    schedule.unroll(tap)
    schedule.unroll(channel)
    return [row]


def _fetch(schedule: Any, conv: Any, loop: Any) -> list[Any]:
    """Read what the convolution reads below `loop` into an array that LLVM keeps in registers."""
    fetched = schedule.cache_read(conv, 0, "local")
    schedule.compute_at(fetched, loop, preserve_unit_loops=True)
    loops: list[Any] = schedule.get_loops(fetched)[-4:]
    for each in loops[:3]:
        schedule.unroll(each)
    return loops
