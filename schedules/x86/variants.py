"""Which form a binary convolution takes on a CPU with AMX: popcounts, or products in tiles.

Both compute the same integers. What decides, in this order: the user's wish, the tuning records of
both forms, the cost model `amx_cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tvm_insta.schedules.variants import BinaryLayer, Measured, TileImage, TileWeights
from tvm_insta.schedules.x86.amx_cost import own_weights, popcount_us, tiles_us
from tvm_insta.schedules.x86.amx_shape import CHANNELS


def fits_tiles(layer: BinaryLayer) -> bool:
    """Whether the rule in `amx` can compute a layer."""
    return layer.plain and layer.channels % 4 == 0 and layer.out_channels % CHANNELS == 0


@dataclass(frozen=True)
class AmxTiles:
    """Which binary convolutions are computed in AMX tiles, as `insta.bitserial_conv2d_signs`.

    Attributes:
        wish: "auto" (whatever is faster), "amx" (wherever they can) or "popcount" (nowhere).
        measured: figures of both forms, for "auto"; without them, the cost model decides.
        wished_weights: what the weights in tiles are kept as; None for `amx_cost.own_weights`.
    """

    wish: str = "auto"
    measured: Mapping[BinaryLayer, Measured] = field(default_factory=dict)
    wished_weights: TileWeights | None = None

    def fits(self, layer: BinaryLayer) -> bool:
        """Whether tiles could compute a layer."""
        return fits_tiles(layer)

    def __call__(self, layer: BinaryLayer, image: TileImage = TileImage.BYTES) -> bool:
        """Whether tiles compute a layer whose image they are given in a form."""
        if self.wish == "popcount" or not self.fits(layer):
            return False
        figures = self.measured.get(layer)
        if self.wish == "auto" and figures is not None:
            return figures.tiles < figures.popcount
        counted = tiles_us(layer, self.weights(layer), image)
        return self.wish == "amx" or counted < popcount_us(layer)

    def weights(self, layer: BinaryLayer) -> TileWeights:
        """What the weights of a layer in tiles are kept as."""
        return self.wished_weights or own_weights(layer)

    def note(self, layer: BinaryLayer, image: TileImage = TileImage.BYTES) -> str:
        """The form of a layer that fits, and what decided, for people."""
        if self(layer, image):
            weights = self.weights(layer).value
            form = f"computed in AMX tiles, weights as {weights}, image as {image.value}"
        else:
            form = "computed by popcount, not in AMX tiles"
        if self.wish != "auto":
            return form
        return f"{form} ({'measured' if layer in self.measured else 'by cost model'})"
