"""Binary convolutions on tensor cores: which cards have them, and how a layer is shared out.

A convolution is the product of a matrix [pixels, words of all taps] and one [words, channels]. A
block of threads computes `rows * columns` pixels of one image for some channels. Its warps share
out pieces of 16 pixels by 8 channels, which is what an instruction computes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum

import tvm

from tvm_insta.schedules.base import NotApplicable, Tiles
from tvm_insta.schedules.cuda.blocks import SHARED_BYTES, WARP
from tvm_insta.schedules.variants import PackedLayer, RefusedMatrix

PIXELS, CHANNELS, STEP = 16, 8, 4
"""Of a piece: pixels and channels that an instruction computes, words of a run that lie together in
a weight."""

_MOST_SUMS = 64  # registers of a thread
_SLACK = 2 * STEP  # words behind the image, which a last step reads and multiplies by 0


class Unit(Enum):
    """What multiplies."""

    BITS = "b1 matrices, and.popc: one instruction from sm_80 to sm_90"
    BYTES = "s8 matrices of bits made bytes: from sm_100 on, where b1 is emulated by eight of them"


def unit_of(target: tvm.target.Target) -> Unit | None:
    """The unit of a card; None for cards with neither, whose rule counts bits."""
    found = re.match(r"sm_(\d+)", str(target.attrs.get("arch", "")))
    capability = int(found[1]) if found else 0
    if capability < 80:
        return None
    return Unit.BITS if capability < 100 else Unit.BYTES


@dataclass(frozen=True)
class MatrixTile(Tiles):
    """How a convolution is shared out.

    Attributes:
        rows: output rows of a block.
        columns: output columns of a block.
        pixel_warps: warps of a block along the pixels.
        channel_warps: warps of a block along the channels.
        channel_pieces: pieces of 8 channels of a warp.
    """

    rows: int
    columns: int
    pixel_warps: int
    channel_warps: int
    channel_pieces: int

    @property
    def pixels(self) -> int:
        """Of a block."""
        return self.rows * self.columns

    @property
    def pixel_pieces(self) -> int:
        """Pieces of 16 pixels of a warp."""
        return -(-self.pixels // (PIXELS * self.pixel_warps))

    @property
    def channels(self) -> int:
        """Of a block."""
        return self.channel_warps * self.channel_pieces * CHANNELS

    @property
    def threads(self) -> int:
        """Of a block."""
        return WARP * self.pixel_warps * self.channel_warps

    @property
    def sums(self) -> int:
        """Registers of a thread that hold sums."""
        return 4 * self.pixel_pieces * self.channel_pieces


@dataclass(frozen=True)
class Layout:
    """How the pixels of a tile lie in shared memory.

    Attributes:
        rows: of the image, halo included.
        columns: likewise.
        pitch: words from one pixel to the next; more than it has where whole steps of it are
            taken, so that the eight rows of a fragment fall into different banks.
        words: of all planes.
    """

    rows: int
    columns: int
    pitch: int
    words: int

    @property
    def plane(self) -> int:
        """Words of a plane of bits."""
        return self.rows * self.columns * self.pitch

    @property
    def pixels(self) -> int:
        """Halo included."""
        return self.rows * self.columns


def layout_of(layer: PackedLayer, tile: MatrixTile) -> Layout:
    """Where the pixels of a tile lie."""
    rows = (tile.rows - 1) * layer.strides[0] + layer.kernel[0]
    columns = (tile.columns - 1) * layer.strides[1] + layer.kernel[1]
    whole = layer.words % STEP == 0
    pitch = layer.words + (STEP if whole and layer.words % (2 * STEP) == 0 else 0)
    return Layout(rows, columns, pitch, layer.bits * rows * columns * pitch + _SLACK)


def shared_bytes(layer: PackedLayer, tile: MatrixTile) -> int:
    """Words, ones of each pixel, and ones in the window of each output pixel."""
    layout = layout_of(layer, tile)
    return 4 * (layout.words + layout.pixels + tile.pixels)


def refused(layer: PackedLayer, unit: Unit | None) -> RefusedMatrix | None:
    """Why a card does not compute a layer so."""
    if unit is None:
        return RefusedMatrix.NO_UNIT
    if layer.groups != 1:
        return RefusedMatrix.GROUPS
    if layer.dilation != (1, 1):
        return RefusedMatrix.DILATION
    return None if matrix_space(layer) else RefusedMatrix.MEMORY


def choose_matrix_tile(layer: PackedLayer) -> MatrixTile:
    """The tile that is taken where nothing is measured.

    Raises:
        NotApplicable: the smallest does not fit shared memory.
    """
    space = matrix_space(layer)
    if not space:
        raise NotApplicable(RefusedMatrix.MEMORY.value)
    return space[0]


def matrix_space(layer: PackedLayer) -> list[MatrixTile]:
    """The tiles worth a measurement, the most promising first.

    That is: the fewest pieces of which nothing is used, then about 64 pixels by 64 channels, which
    load a word for every three of an instruction.
    """
    height, width = layer.image
    widths = sorted({min(width, columns) for columns in (7, 8, 14, 16, 28, 32)})
    found = {
        MatrixTile(rows, columns, pixel_warps, channel_warps, pieces)
        for columns in widths
        for wanted in (32, 64, 128)
        for rows in {min(height, max(1, wanted // columns)), min(height, -(-wanted // columns))}
        for pixel_warps, channel_warps in ((1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (4, 2), (2, 4))
        for pieces in (1, 2, 4, 8)
    }
    fitting = [
        tile
        for tile in found
        if tile.sums <= _MOST_SUMS
        and tile.pixel_pieces * PIXELS * (tile.pixel_warps - 1) < tile.pixels
        and tile.channels < layer.out_channels + tile.channel_pieces * CHANNELS
        and shared_bytes(layer, tile) <= SHARED_BYTES
    ]
    return sorted(fitting, key=lambda tile: _unpromising(layer, tile))


def _unpromising(layer: PackedLayer, tile: MatrixTile) -> tuple[float, ...]:
    height, width = layer.image
    pieces = tile.pixel_pieces * tile.pixel_warps * tile.channel_pieces * tile.channel_warps
    blocks = (
        -(-height // tile.rows)
        * -(-width // tile.columns)
        * -(-layer.out_channels // tile.channels)
    )
    computed = blocks * pieces * PIXELS * CHANNELS
    waste = computed / (height * width * layer.out_channels)
    loads = 1 / tile.pixel_pieces + 1 / tile.channel_pieces  # for each instruction
    size = abs(math.log2(tile.sums / 32))
    return (
        round(2 * waste) / 2,
        loads + size / 2 + abs(math.log2(tile.threads / 128)) / 4,
        waste,
        *(tile.rows, tile.columns, tile.pixel_warps, tile.channel_pieces),
    )
