"""Which form a binary convolution takes on a CPU with AMX: popcounts, or products in tiles.

Both compute the same integers. What decides, in this order: the user's wish, the tuning records of
both forms, a rule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm_insta.schedules.variants import BinaryLayer, Measured
from tvm_insta.schedules.x86.amx_shape import CHANNELS, ROWS, UNIT, Geometry, rows_of_group

# See `prefers_tiles`.
_LEAST_FILL, _LEAST_STEPS = 2 / 3, 9


def geometry(layer: BinaryLayer) -> Geometry:
    """The layer as `write_tiles` takes it."""
    return Geometry(
        layer.image, layer.padding, layer.strides, layer.kernel, layer.channels, layer.out_channels
    )


def fits_tiles(layer: BinaryLayer) -> bool:
    """Whether the rule in `amx` can compute a layer."""
    return layer.plain and layer.channels % 4 == 0 and layer.out_channels % CHANNELS == 0


def prefers_tiles(layer: BinaryLayer) -> bool:
    """Whether tiles should be faster than popcounts for a layer that fits.

    On a Sapphire Rapids core at 4.1 GHz hand-written kernels took 44, 39, 57 and 74 us with tiles
    for the four sizes of 3x3 layers of ResNet-18 (56x56x64 to 7x7x512), and 84 to 88 us with
    VPOPCNTDQ. That is at least 53 % of what the products alone take, against 1345 GMAC/s; the
    products do 3850 GMAC/s if every element counts. So tiles win if two thirds of the elements do
    (0.53 * 3850 * 2 / 3 = 1360), and if they are used as often as there: 9 products a tile of sums
    or more. 1x1 layers have less to do between two epilogues: a whole ReActNet-A, which has mostly
    such, was slower with tiles (5.9 to 6.4 ms against 5.3 to 5.8 ms), and popcounts keep them.
    """
    shape, taps = geometry(layer), math.prod(layer.kernel)
    return taps > 1 and shape.steps >= _LEAST_STEPS and fill(shape) >= _LEAST_FILL


def fill(shape: Geometry) -> float:
    """Share of the multiply-adds in tiles that the layer asks for."""
    rows = rows_of_group(shape)
    height, width = shape.out_image
    products = height // rows * shape.tiles_of(rows) * shape.steps
    asked = height * width * math.prod(shape.kernel) * shape.channels
    return asked / (products * ROWS * UNIT)


@dataclass(frozen=True)
class AmxTiles:
    """Which binary convolutions are computed in AMX tiles, as `insta.bitserial_conv2d_signs`.

    Attributes:
        wish: "auto" (whatever is faster), "amx" (wherever they can) or "popcount" (nowhere).
        measured: figures of both forms, for "auto"; without them, the rule `prefers_tiles`.
    """

    wish: str = "auto"
    measured: Mapping[BinaryLayer, Measured] = field(default_factory=dict)

    def fits(self, layer: BinaryLayer) -> bool:
        """Whether tiles could compute a layer."""
        return fits_tiles(layer)

    def __call__(self, layer: BinaryLayer) -> bool:
        """Whether tiles compute a layer."""
        if self.wish == "popcount" or not self.fits(layer):
            return False
        figures = self.measured.get(layer)
        if self.wish == "auto" and figures is not None:
            return figures.tiles < figures.popcount
        return self.wish == "amx" or prefers_tiles(layer)

    def note(self, layer: BinaryLayer) -> str:
        """The form of a layer that fits, and what decided, for people."""
        form = "computed in AMX tiles" if self(layer) else "computed by popcount, not in AMX tiles"
        if self.wish != "auto":
            return form
        return f"{form} ({'measured' if layer in self.measured else 'by rule'})"
