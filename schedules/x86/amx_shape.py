"""The shape of a convolution in AMX tiles: what its rows, units and groups are."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_insta.schedules.base import band_height, divisors

WORD = 32
CHANNELS = 16
"""Output channels, and columns, of a tile of sums."""

ROWS = 16
"""Pixels, and rows, of a tile."""

UNIT = 64
"""Bytes of a row of a tile."""

RING = 16
"""Tiles of weights of the buffer for those that are expanded ahead of their use: 16 KiB."""

# Sums of a group: 32 of the 48 KiB of first-level cache that every core with AMX has.
_GROUP_SUMS = 32 * 1024 // 4


@dataclass(frozen=True)
class Geometry:
    """A convolution in tiles.

    Attributes:
        image: input height and width.
        padding: top, left, bottom, right.
        strides: vertical, horizontal.
        kernel: height, width.
        channels: input channels; where they are bits a multiple of 4.
        out_channels: output channels, a multiple of 16.
    """

    image: tuple[int, int]
    padding: tuple[int, int, int, int]
    strides: tuple[int, int]
    kernel: tuple[int, int]
    channels: int
    out_channels: int

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded image."""
        top, left, bottom, right = self.padding
        return self.image[0] + top + bottom, self.image[1] + left + right

    @property
    def out_image(self) -> tuple[int, int]:
        """Output height and width."""
        (height, width), (kernel_h, kernel_w) = self.padded, self.kernel
        return (height - kernel_h) // self.strides[0] + 1, (width - kernel_w) // self.strides[1] + 1

    @property
    def words(self) -> int:
        """Words of a pixel."""
        return -(-self.channels // WORD)

    @property
    def element(self) -> int:
        """Bytes of a number that tiles load."""
        return 1

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.words * WORD

    @property
    def row(self) -> int:
        """Bytes of a row of the padded image."""
        return self.padded[1] * self.pixel

    @property
    def run(self) -> int:
        """Bytes of the taps of a kernel row."""
        return self.kernel[1] * self.pixel

    @property
    def units(self) -> int:
        """Units of 64 bytes of such a run; the last may go past it."""
        return -(-self.run // UNIT)

    @property
    def steps(self) -> int:
        """Products for a tile of sums."""
        return self.kernel[0] * self.units

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights, in tiles."""
        return self.out_channels // CHANNELS * self.steps * ROWS * UNIT

    @property
    def slack(self) -> int:
        """Bytes behind the images that tiles may read."""
        return ROWS * self.strides[1] * self.pixel + UNIT

    @property
    def pitch(self) -> int:
        """Sums between the same pixel of neighbouring rows of a group."""
        return self.padded[1] if self.strides == (1, 1) else self.out_image[1]

    def sums_of(self, rows: int) -> int:
        """Sums of a group of rows, from the first pixel to the last."""
        return (rows - 1) * self.pitch + self.out_image[1]

    def products_of(self, rows: int) -> int:
        """Products of an image in groups of that many rows."""
        groups = self.out_image[0] // rows
        return groups * self.tiles_of(rows) * self.steps * (self.out_channels // CHANNELS)

    def tiles_of(self, rows: int) -> int:
        """Tiles of such a group."""
        return -(-self.sums_of(rows) // ROWS)

    def steps_of(self, rows: int, vectors: int) -> int:
        """Times that such a group loads the weights of its channels."""
        return -(-self.tiles_of(rows) // tiles_at_once(vectors))


@dataclass(frozen=True)
class NumbersGeometry(Geometry):
    """A convolution of narrow numbers, which are side by side in a pixel.

    Attributes:
        number_bytes: 1 for 8-bit integers, 2 for bfloat16.
    """

    number_bytes: int

    @property
    def element(self) -> int:
        """Bytes of a number."""
        return self.number_bytes

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.channels * self.number_bytes


def tiles_at_once(vectors: int) -> int:
    """Tiles of pixels whose sums stay in registers beside those of as many groups of channels."""
    return 2 if vectors == 2 else 3


def rows_of_group(shape: Geometry) -> int:
    """Rows whose outputs lie end to end in tiles: those that fill tiles best, of these the fewest.

    The last of an odd number of tiles is a 1 x 2 step: half the products of 2 x 2, but three of its
    four loads. So it counts one and a half.
    """
    height, _ = shape.out_image
    if shape.strides != (1, 1):
        return 1

    def waste(rows: int) -> tuple[float, int]:
        tiles = shape.tiles_of(rows)
        return (tiles + tiles % 2 / 2) / rows, rows

    return min((rows for rows in divisors(height) if fits_group(shape, rows)), key=waste)


def fits_group(shape: Geometry, rows: int) -> bool:
    """Whether the sums of that many rows, and of 32 channels, stay in the first-level cache."""
    return rows <= max(_GROUP_SUMS // (shape.pitch * 2 * CHANNELS), 1)


def rows_stored_directly(shape: Geometry) -> int:
    """Rows of a group whose sums are stored to the result as they are; 0 if that does not fit.

    The rows of a tile are neighbours in the result, too, if there are no sums between two rows.
    Where there are, a group is one row: 7 % more products at 56x56 and 8 % at 28x28. A tile never
    stores more than the group has, for it may be the next task's, or lie behind the result.
    """
    rows = rows_of_group(shape) if shape.pitch == shape.out_image[1] else 1
    return rows if shape.sums_of(rows) >= ROWS else 0


def own_vectors(shape: Geometry) -> int:
    """Groups of 16 output channels that a task computes: two share what they load of the image."""
    return 2 if shape.out_channels // CHANNELS % 2 == 0 else 1


def own_band(shape: Geometry, vectors: int, rows: int) -> int:
    """The longest band of groups of `rows` that leaves enough tasks, else one group."""
    blocks = shape.out_channels // CHANNELS // vectors
    return rows * band_height(shape.out_image[0] // rows, blocks)
