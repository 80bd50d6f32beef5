"""Which functions keep to their channels: what one block of threads can compute behind another.

A kernel keeps to its channels if whatever it writes to channel c of an image is made of channel c
of that image alone, of constants, or, where it packs bits, of the 32 channels of a word.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad

from tvm_insta.schedules.base import blocks, collect, name_of, rule_of, start
from tvm_insta.schedules.cuda.simplify import with_simple_indices

WORD = 32
"""Channels of a word of packed bits."""

PIXELS = 32 * 32
"""Pixels of an image up to which its words are packed, and its windows pooled, together with the
rest: a block of threads has all pixels of a few channels, and a larger image would have to wait for
too few blocks."""


@dataclass(frozen=True)
class ChannelBlock:
    """A block of a function that keeps to its channels.

    Attributes:
        image: position of the axis of images.
        channel: position of the axis of channels, or of words of channels.
        channels: of the tensors.
        words: whether it is words that are written.
    """

    image: int
    channel: int
    channels: int
    words: bool


def channels_kept(function: tirx.PrimFunc) -> int | None:
    """The channels of the tensors of a kernel that keeps to them, None for any other kernel.

    Args:
        function: legalised, not scheduled.
    """
    function = with_simple_indices(function)
    schedule = start(function)
    found = channel_blocks(schedule)
    kept = {block.channels for block in found.values()} if found else set()
    if not found or len(kept) != 1:
        return None
    large = any(_pixels(buffer) > PIXELS for buffer in function.params)
    windows = any(block.words for block in found.values()) or _has_windows(schedule)
    return None if large and windows else kept.pop()


def channel_blocks(schedule: s_tir.Schedule) -> dict[str, ChannelBlock] | None:
    """How each block keeps to its channels, by its name; None where one does not."""
    found: dict[str, ChannelBlock] = {}
    words: dict[Any, int] = {}  # packed tensor -> its channels
    for block in blocks(schedule):
        form = _channel_block(schedule, block)
        if form is None:
            return None
        realised = schedule.get(block)
        packed = [region.source for region in realised.reads if region.source in words]
        if packed:  # a border around words
            form = replace(form, channels=words[packed[0]], words=True)
        if form.words:
            words[realised.writes[0].source] = form.channels
        found[name_of(schedule, block)] = form
    return found


def _channel_block(schedule: s_tir.Schedule, block: Any) -> ChannelBlock | None:
    realised = schedule.get(block)
    (written,) = realised.writes
    rank = len(written.source.shape)
    image, axes = (1 if rank == 5 else 0), list(realised.iter_vars)
    if rank < 2 or not _is_one_image(written.source.shape[image]):
        return None
    first = _position(axes, written.region[image].min)
    last = _position(axes, written.region[-1].min)
    if first is None or last is None or first == last:
        return None
    own, channel = axes[first], axes[last]
    size = _known(written.source.shape[-1])
    packs = rule_of(schedule, block) == "insta_pack"
    loads = [load for load in collect(realised.body, TensorLoad) if not _same(load, written.source)]
    channels = max((_known(load.source.shape[-1]) for load in loads), default=0) if packs else size
    words = packs and size == -(-channels // WORD)
    if size < 1 or (packs and not words):
        return None
    analyzer = tvm.sym.Analyzer()
    for axis in axes:
        analyzer.bind(axis.var, axis.dom)
    for load in loads:
        if not _is_number(load.source) and not (
            _reads_channel(load, channel, channels, axes if packs else None, analyzer)
            and _reads_image(load, own)
        ):
            return None
    return ChannelBlock(first, last, channels, words)


def _reads_channel(load: Any, channel: Any, channels: int, axes: Any, analyzer: Any) -> bool:
    last = load.indices[-1]
    if _known(load.source.shape[-1]) != channels:
        return False
    if axes is None:
        return bool(last.same_as(channel.var))
    bits = [axis for axis in axes if axis.iter_type == tirx.IterVar.CommReduce]
    return len(bits) == 1 and bool(analyzer.can_prove_equal(last, channel.var * WORD + bits[0].var))


def _reads_image(load: Any, image: Any) -> bool:
    """Whether a load stays with the image wherever the number of images is not known."""
    shape = load.source.shape
    return all(
        isinstance(size, tirx.IntImm) or bool(index.same_as(image.var))
        for size, index in zip(shape, load.indices, strict=True)
    )


def _is_one_image(size: Any) -> bool:
    return not isinstance(size, tirx.IntImm) or int(size) == 1


def _is_number(buffer: Any) -> bool:
    return all(isinstance(size, tirx.IntImm) and int(size) == 1 for size in buffer.shape)


def _same(load: Any, buffer: Any) -> bool:
    return bool(load.source.same_as(buffer))


def _position(axes: list[Any], index: Any) -> int | None:
    found = [at for at, axis in enumerate(axes) if axis.var.same_as(index)]
    return found[0] if found else None


def _known(size: Any) -> int:
    return int(size) if isinstance(size, tirx.IntImm) else 0


def _pixels(buffer: Any) -> int:
    shape = list(buffer.shape)
    return _known(shape[1]) * _known(shape[2]) if len(shape) == 4 else 1


def _has_windows(schedule: s_tir.Schedule) -> bool:
    """Whether images of one size become images of another, or a window is reduced."""
    return any(
        [axis.iter_type for axis in schedule.get(block).iter_vars].count(tirx.IterVar.CommReduce)
        > 1
        for block in blocks(schedule)
    )
