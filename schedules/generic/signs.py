"""The blocks of `insta.threshold_signs` as one: vectors of channels become vectors of +-1 bytes.

    threshold_signs[..., part] = Select(compare `lanes` channels at once, +1, -1)

stored where they belong in the padded image. The zeros around the image, and behind the last
channel, are written by loops in front of the function, see `pack`.

With AVX-512 16 channels are one comparison, one blend and one store. Wider stores would need the
masks joined, which the unit does that compares: by llvm-mca's tables for Sapphire Rapids 64
channels then take 6 cycles (32 bytes) or 7 (64 bytes), as words do, in place of 4.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tvm import tirx

from tvm_insta.schedules.base import NotApplicable
from tvm_insta.schedules.generic.border import find_padding
from tvm_insta.schedules.generic.comparisons import compared, element
from tvm_insta.schedules.generic.loops import (
    Axes,
    Loop,
    index,
    innermost,
    ramp,
    sequence,
    steps_of,
    with_root,
)

BLOCK = "threshold_signs"

_LANES = 16


class Signs(NamedTuple):
    """A function in this form.

    Attributes:
        function: with the one block.
        lanes: channels of a vector.
        pad: pixels of zeros around the image: top, left, bottom, right.
        channels: of the image; the bytes behind them are zeros.
    """

    function: tirx.PrimFunc
    lanes: int
    pad: tuple[int, ...]
    channels: int


def vectors_of_signs(function: tirx.PrimFunc) -> Signs:
    """Bring the operator of a function that is not scheduled yet into this form.

    Raises:
        NotApplicable: it compares something else than elements of tensors.
    """
    root = function.body.block
    nests = steps_of(root.body)
    names = [innermost(nest).block.name_hint for nest in nests]
    at = names.index(BLOCK)
    block = innermost(nests[at]).block
    target, pad, dead, last = find_padding(nests, at, "signs_pad")
    channels = int(block.iter_vars[-1].dom.extent)
    lanes = math.gcd(channels, _LANES)
    if lanes == 1:
        raise NotApplicable(f"{channels} channels are no vectors of bytes")
    *pixel, channel = (axis.var for axis in block.iter_vars)
    sizes = [*(axis.dom.extent for axis in block.iter_vars[:-1]), channels // lanes]
    loops = [Loop(size, name) for size, name in zip(sizes, ("n", "y", "x", "part"), strict=True)]
    axes = Axes(**{loop.name: (loop.extent, loop.var) for loop in loops})
    n, y, x, part = axes.vars
    first = part * index(lanes)
    values = {**dict(zip(pixel, (n, y, x), strict=True)), channel: first}
    term = block.body.value
    found = compared(term, channel, values, lanes)
    if found is None:
        raise NotApplicable("the packing compares something else than tensors")
    condition, reads = found
    chosen = [tirx.Broadcast(value, lanes) for value in (term.true_value, term.false_value)]
    place = [n, y + pad[0], x + pad[1]]
    nest = axes.block(
        BLOCK,
        tirx.BufferStore(target, tirx.Select(condition, *chosen), [*place, ramp(first, lanes)]),
        reads,
        [element(target, place, (first, lanes))],
        dict(block.annotations),
    )
    for loop in reversed(loops):
        nest = loop.around(nest)
    nests[at:last] = [nest]
    kept = [b for b in root.alloc_buffers if not any(b.same_as(d) for d in dead)]
    return Signs(with_root(function, sequence(nests), kept), lanes, pad, channels)
