"""How a convolution of images is shared out to blocks of threads, whatever it sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from tvm import s_tir

from tvm_insta.schedules.base import Tiles
from tvm_insta.schedules.cuda.blocks import spatial_loops


@dataclass(frozen=True)
class ImageTile(Tiles):
    """How a convolution is shared out.

    Attributes:
        rows: output rows of a block.
        columns: threads of a block along a row.
        pixels: neighbouring pixels of a thread.
        groups: threads of a block along the channels.
        channels: output channels of a thread.
    """

    rows: int
    columns: int
    pixels: int
    groups: int
    channels: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.rows * self.columns * self.groups


class Shared(NamedTuple):
    """Loops of an output that is shared out.

    Attributes:
        block: the innermost one around a block of threads.
        thread: the innermost one around a thread.
        pixel: over the pixels of a thread.
        lane: over the channels of a thread.
    """

    block: Any
    thread: Any
    pixel: Any
    lane: Any


def share_out(schedule: s_tir.Schedule, output: Any, tile: ImageTile) -> Shared:
    """Bind the loops of an output [N, H, W, C] to blocks and threads.

    Raises:
        NotApplicable: the loops are not one for each of its axes.
    """
    image, row, column, channel = spatial_loops(schedule, output)
    row_block, row_in = schedule.split(row, factors=[None, tile.rows])
    column_block, column_in, pixel = schedule.split(
        column, factors=[None, tile.columns, tile.pixels]
    )
    channel_block, group, lane = schedule.split(channel, factors=[None, tile.groups, tile.channels])
    schedule.reorder(
        image, row_block, column_block, channel_block, row_in, column_in, group, pixel, lane
    )
    place = schedule.fuse(row_block, column_block)
    threads = schedule.fuse(row_in, column_in)
    for loop, axis in (
        (image, "blockIdx.z"),
        (place, "blockIdx.y"),
        (channel_block, "blockIdx.x"),
        (threads, "threadIdx.y"),
        (group, "threadIdx.x"),
    ):
        schedule.bind(loop, axis)
    return Shared(channel_block, group, pixel, lane)


def load_together(schedule: s_tir.Schedule, copy: Any, tile: ImageTile) -> None:
    """Let all threads of a block copy neighbouring elements into shared memory in turn."""
    loops = list(schedule.get_loops(copy))
    inside = loops[len(loops) - len(schedule.get(copy).iter_vars) :]
    _, y, x = schedule.split(
        schedule.fuse(*inside), factors=[None, tile.rows * tile.columns, tile.groups]
    )
    schedule.bind(y, "threadIdx.y")
    schedule.bind(x, "threadIdx.x")
