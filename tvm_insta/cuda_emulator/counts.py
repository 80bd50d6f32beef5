"""What one block of a launch did, counted: instructions by unit, and traffic of memory."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_insta.cuda_emulator.ptx.classes import Unit


@dataclass(frozen=True)
class LaunchCounts:
    """Counts of the block in the middle of a grid.

    Attributes:
        kernel: its symbol.
        grid, block: blocks and threads along x, y and z.
        shared_bytes: shared memory of the block.
        instructions: of warps, by unit; where lanes part, those of the longest lane.
        shared_wavefronts: passes through shared memory, more than one an access where lanes use
            different words of a bank.
        shared_accesses: of warps, in passes that no conflict would take.
        load_sectors, store_sectors: pieces of 32 bytes of global memory, by access of a warp.
        touched_sectors: different ones in all.
        global_bytes: bytes that lanes asked for; less than 32 a sector where they lie apart.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    instructions: dict[Unit, int]
    shared_wavefronts: int
    shared_accesses: int
    load_sectors: int
    store_sectors: int
    touched_sectors: int
    global_bytes: int

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        x, y, z = self.grid
        return x * y * z

    @property
    def threads(self) -> int:
        """Threads of a block."""
        x, y, z = self.block
        return x * y * z


def read_counts(text: str) -> list[LaunchCounts]:
    """What the driver stand-in wrote: a line for each launch, see counts.cpp."""
    result = []
    for line in text.splitlines():
        kernel, *rest = line.split()
        numbers = list(map(int, rest))
        x, y, z, bx, by, bz, shared = numbers[:7]
        units = dict(zip(Unit, numbers[7 : 7 + len(Unit)], strict=True))
        result.append(
            LaunchCounts(kernel, (x, y, z), (bx, by, bz), shared, units, *numbers[7 + len(Unit) :])
        )
    return result
