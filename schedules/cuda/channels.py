"""Functions that keep to their channels, in one kernel: a block of threads for some channels.

A block of threads has all pixels of `channels` channels of an image, and computes step behind step:
sums of rows, thresholds, activations, words of bits. What a step hands on to other threads lies in
shared memory, or in the output it is, with a barrier between. Each float sum stays within one
thread, and in its order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm_ffi import structural_map

from tvm_insta.schedules.base import (
    NotApplicable,
    Tiles,
    blocks,
    extent,
    is_output,
    is_reduction,
    name_of,
    reads_in_place,
    start,
)
from tvm_insta.schedules.cuda.blocks import SHARED_BYTES, WARP, spatial_loops
from tvm_insta.schedules.cuda.channel_kernels import PIXELS, WORD, ChannelBlock, channel_blocks
from tvm_insta.schedules.cuda.device_code import barrier
from tvm_insta.schedules.cuda.threads import split_start
from tvm_insta.schedules.generic.loops import with_root

_OUTER = ("image", "group")
_AXES = ("blockIdx.x", "blockIdx.y")  # of the channels, of the images

_REPEATS = 16
"""How often a thread may compute what it could read."""


@dataclass(frozen=True)
class ChannelTile(Tiles):
    """How a function is shared out.

    Attributes:
        channels: of a block of threads; whole words where bits are packed.
        threads: of a block.
    """

    channels: int
    threads: int


@dataclass
class _Step:
    """A loop nest of the kernel.

    Attributes:
        block: what it writes.
        form: how the block keeps to its channels.
        inner: sums that its threads compute for themselves.
        waits: whether it reads what other threads wrote since the last barrier.
    """

    block: Any
    form: ChannelBlock
    inner: list[Any]
    waits: bool = False


def schedule_channels(function: tirx.PrimFunc, tile: ChannelTile | None = None) -> tirx.PrimFunc:
    """Schedule a function whose blocks all keep to the same channels.

    Raises:
        NotApplicable: it is another function, or one step is all it is.
    """
    schedule = start(function)
    steps = _steps(schedule)
    if tile is None:
        tile = channel_space(schedule, steps)[0]
    for step in steps:
        _share_out(schedule, step, tile)
    return _joined(schedule.mod["main"], [step.waits for step in steps])


def channel_tiles(function: tirx.PrimFunc) -> list[ChannelTile]:
    """The tiles worth a measurement, of which the first is taken where nothing is measured."""
    schedule = start(function)
    return channel_space(schedule, _steps(schedule))


def channel_space(schedule: s_tir.Schedule, steps: Sequence[_Step]) -> list[ChannelTile]:
    """As `channel_tiles`."""
    channels = steps[0].form.channels
    words = any(step.form.words for step in steps)
    widths = [width for width in (WORD, WORD // 2, WORD // 4) if not words or width == WORD]
    work = max(_elements(schedule, step.block) for step in steps)
    read = max(_steps_of(schedule, each) for step in steps for each in (step.block, *step.inner))
    # Large images have few channels: then more blocks, of eight, which are a sector of memory.
    if read // channels > PIXELS:
        widths.reverse()
    bytes_each = sum(_shared_bytes(schedule, step) for step in steps)
    widths = [width for width in widths if width * bytes_each <= SHARED_BYTES]
    if not widths:
        raise NotApplicable
    most = {width: _threads(work * width // channels) for width in widths}
    return [
        ChannelTile(width, threads)
        for width in widths
        for threads in dict.fromkeys((most[width], max(WARP, most[width] // 2)))
    ]


def _threads(elements: int) -> int:
    """Whole warps for so many elements."""
    return min(512, max(4 * WARP, -(-elements // WARP) * WARP))


def _steps(schedule: s_tir.Schedule) -> list[_Step]:
    """The steps of a function, brought into their form."""
    forms = channel_blocks(schedule)
    if not forms or len({form.channels for form in forms.values()}) != 1:
        raise NotApplicable
    for block in blocks(schedule):
        if not is_reduction(schedule, block) and not is_output(schedule, block):
            _inline_if_cheap(schedule, block)
    steps: list[_Step] = []
    own: list[Any] = []
    for block in blocks(schedule):
        form = forms[name_of(schedule, block)]
        if _is_of_its_reader(schedule, block, form):
            own.append(block)
            continue
        mine = [b for b in own if _reads(schedule, block, b)]
        own = [b for b in own if b not in mine]
        if is_reduction(schedule, block):  # sums are made in registers
            steps.append(_Step(schedule.cache_write(block, 0, "local"), form, [*mine, block]))
        else:
            steps.append(_Step(block, form, mine))
    if len(steps) < 2 or own:
        raise NotApplicable
    _find_waits(schedule, steps)
    return steps


def _inline_if_cheap(schedule: s_tir.Schedule, block: Any) -> None:
    made = _elements(schedule, block)
    consumers = schedule.get_consumers(block)
    if all(_steps_of(schedule, consumer) <= _REPEATS * made for consumer in consumers):
        schedule.compute_inline(block)


def _is_of_its_reader(schedule: s_tir.Schedule, block: Any, form: ChannelBlock) -> bool:
    """Whether a sum is read by one thread: that of the element behind it."""
    consumers = list(schedule.get_consumers(block))
    if is_output(schedule, block) or not is_reduction(schedule, block) or len(consumers) != 1:
        return False
    (reader,) = consumers
    if is_reduction(schedule, reader):
        return False
    return form.words or _elements(schedule, reader) == _elements(schedule, block)


def _reads(schedule: s_tir.Schedule, block: Any, producer: Any) -> bool:
    made = schedule.get(producer).writes[0].source
    return any(region.source.same_as(made) for region in schedule.get(block).reads)


def _find_waits(schedule: s_tir.Schedule, steps: Sequence[_Step]) -> None:
    written: list[_Step] = []  # since the last barrier
    for step in steps:
        readers = [step.block, *step.inner]
        step.waits = any(
            _reads(schedule, reader, other.block)
            and not _same_thread(schedule, reader, step, other)
            for reader in readers
            for other in written
        )
        written = [step] if step.waits else [*written, step]


def _same_thread(schedule: s_tir.Schedule, reader: Any, step: _Step, other: _Step) -> bool:
    """Whether every thread reads its own element."""
    return (
        reader is step.block
        and not is_reduction(schedule, reader)
        and reads_in_place(schedule, reader, other.block)
    )


def _share_out(schedule: s_tir.Schedule, step: _Step, tile: ChannelTile) -> None:
    """Image, channels of a block, and the rest in turn to its threads."""
    block, form = step.block, step.form
    loops = list(schedule.get_loops(block))
    sums = [
        axis.iter_type == tirx.IterVar.CommReduce for axis in schedule.get(block).iter_vars
    ].count(True)
    spatial = loops[: len(loops) - sums]
    image, channel = loops[form.image], loops[form.channel]
    rest = [loop for at, loop in enumerate(spatial) if at not in (form.image, form.channel)]
    width = tile.channels // WORD if form.words else tile.channels
    group, lane = schedule.split(channel, factors=[None, width])
    schedule.reorder(image, group, *rest, lane)
    flat = schedule.fuse(*rest, lane) if rest else lane
    for each in step.inner:  # before the split, whose condition then holds for them, too
        schedule.compute_at(each, flat, preserve_unit_loops=True)
        schedule.set_scope(each, 0, "local")
    _, thread = schedule.split(flat, factors=[None, tile.threads])
    if not is_output(schedule, block):
        schedule.set_scope(block, 0, "shared")
    schedule.bind(thread, "threadIdx.x")
    for each in (*step.inner, block):
        split_start(schedule, each)


def _joined(function: tirx.PrimFunc, waits: Sequence[bool]) -> tirx.PrimFunc:
    """The nests of a function in one, under the same image and channels, with their barriers."""
    root = function.body.block
    nests = list(root.body.seq)
    if len(nests) != len(waits):
        raise NotApplicable
    outer = (nests[0], nests[0].body)
    fresh = [tirx.Var(name, nest.extent.ty) for name, nest in zip(_OUTER, outer, strict=True)]
    inside: list[Any] = []
    for nest, wait in zip(nests, waits, strict=True):
        if wait:
            inside.append(barrier())
        own = (nest, nest.body)
        if not all(map(_same_extent, own, outer)):
            raise NotApplicable
        values = {loop.loop_var: var for loop, var in zip(own, fresh, strict=True)}
        inside.append(
            structural_map(nest.body.body, [(tirx.Var, lambda var, v=values: v.get(var, var))])
        )
    body: Any = tirx.SeqStmt(inside)
    for loop, var, axis in zip(reversed(outer), reversed(fresh), _AXES, strict=True):
        thread = tirx.IterVar(None, axis, tirx.IterVar.ThreadIndex, axis)
        body = tirx.For(var, loop.min, loop.extent, tirx.ForKind.THREAD_BINDING, body, thread)
    return with_root(function, body)


def _same_extent(loop: Any, other: Any) -> bool:
    return bool(tvm.sym.Analyzer().can_prove_equal(loop.extent, other.extent))


def _elements(schedule: s_tir.Schedule, block: Any) -> int:
    """Elements of an image that a block writes."""
    sizes = [extent(schedule, loop) for loop in spatial_loops(schedule, block)]
    return math.prod(size for size in sizes if size is not None)


def _steps_of(schedule: s_tir.Schedule, block: Any) -> int:
    """Steps of all loops of a block, for an image."""
    sizes = [extent(schedule, loop) for loop in schedule.get_loops(block)]
    return math.prod(size for size in sizes if size is not None)


def _shared_bytes(schedule: s_tir.Schedule, step: _Step) -> int:
    """What a step needs of shared memory for each channel."""
    if is_output(schedule, step.block):
        return 0
    dtype = tvm.DataType(str(schedule.get(step.block).writes[0].source.dtype))
    return _elements(schedule, step.block) // step.form.channels * int(dtype.bits) // 8
