"""What is fused into a kernel behind its epilogue: sums of rows, and packed bits, or bytes of them.

The pass that fuses kernels puts `insta.moment_rows`, and `insta.threshold_pack` or
`insta.threshold_signs`, behind the kernel that makes their tensor. All are computed where a tile of
that tensor lies in registers or in the first-level cache. None changes what it computes: a row is
added up from left to right, tile after tile, and a word is packed from the 32 channels of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_insta.schedules.base import Kernel, NotApplicable, blocks, name_of
from tvm_insta.schedules.generic.float_ops import reduction_nest
from tvm_insta.schedules.generic.pack import Pack, find_pack, pack_alone, write_border


@dataclass
class Consumers:
    """The consumers of one kernel, None where it has no such.

    Attributes:
        rows: the block "moment_rows".
        pack: the blocks of `insta.threshold_pack` or `insta.threshold_signs`.
    """

    rows: Any
    pack: Pack | None

    @property
    def all(self) -> list[Any]:
        """Their blocks."""
        rows = [] if self.rows is None else [self.rows]
        return rows + ([] if self.pack is None else self.pack.all)

    @property
    def any(self) -> bool:
        """Whether there is a consumer."""
        return self.rows is not None or self.pack is not None


def find_consumers(kernel: Kernel) -> Consumers:
    """The consumers of a kernel; its packing is brought into the form of `Pack`."""
    pack = find_pack(kernel)
    named = {name_of(kernel.schedule, block): block for block in blocks(kernel.schedule)}
    return Consumers(named.get("moment_rows"), pack)


def fuse_consumers(
    kernel: Kernel, consumers: Consumers, loop: Any, lanes: int, channels: int, inner: Any = None
) -> None:
    """Compute the consumers at `loop`, whose tiles hold `channels` channels of a row's pixels.

    Words are packed there if the tile holds whole ones, else in a nest of their own. Rows may be
    added up at a loop `inner` over the channels of the tile.
    """
    if consumers.pack is not None:
        if channels % consumers.pack.lanes == 0 and consumers.pack.flags is None:
            fuse_words(kernel, consumers.pack, loop)
        else:
            pack_alone(kernel, consumers.pack)
    if consumers.rows is not None:
        fuse_rows(kernel, consumers.rows, loop if inner is None else inner, lanes)


def finish_consumers(kernel: Kernel, consumers: Consumers, loop: Any) -> None:
    """The last steps of a rule: start the sums in front of `loop`, write the border of the words.

    TVM refuses to make loops parallel once a block is split or written twice.
    """
    if consumers.rows is not None:
        kernel.schedule.decompose_reduction(consumers.rows, loop)
    if consumers.pack is not None:
        write_border(kernel, consumers.pack)


def schedule_consumers_apart(kernel: Kernel, consumers: Consumers) -> None:
    """Compute the consumers in nests of their own, over the finished tensor."""
    if consumers.pack is not None:
        pack_alone(kernel, consumers.pack)
    if consumers.rows is not None:
        reduction_nest(kernel, consumers.rows, [])
        consumers.rows = None  # complete


def fuse_rows(kernel: Kernel, rows: Any, loop: Any, lanes: int) -> None:
    """Add up rows tile by tile: `loop` runs over the tiles of a row, or over channels of one."""
    schedule = kernel.schedule
    schedule.reverse_compute_at(rows, loop, preserve_unit_loops=True)
    *outer, channel, column = schedule.get_loops(rows)[depth(schedule, rows, loop) :]
    vector, lane = schedule.split(channel, [None, lanes])
    schedule.reorder(*outer, column, vector, lane)
    for each in (*outer, column, vector):
        schedule.unroll(each)
    if lanes > 1:
        schedule.vectorize(lane)


def fuse_words(kernel: Kernel, pack: Pack, loop: Any) -> None:
    """Pack the pixels of a tile at `loop`, whose channels are whole words."""
    schedule = kernel.schedule
    schedule.reverse_compute_at(pack.words, loop, preserve_unit_loops=True)
    for each in schedule.get_loops(pack.words)[depth(schedule, pack.words, loop) :]:
        schedule.unroll(each)


def depth(schedule: Any, block: Any, loop: Any) -> int:
    """How many loops around `block` lie outside of or are `loop`."""
    wanted = schedule.get(loop).loop_var
    for at, each in enumerate(schedule.get_loops(block)):
        if schedule.get(each).loop_var.same_as(wanted):
            return at + 1
    raise NotApplicable("a consumer does not lie at its tile")
