"""Float weights in AMX tiles: their numbers in the order of a tile's second operand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_insta.errors import OpError

from .packing import narrow_weight

CHANNELS = 16
"""Output channels, and columns, of a tile of sums."""


@dataclass(frozen=True)
class TileUnit:
    """A row of an AMX tile of narrow numbers: 64 bytes.

    Attributes:
        dtype: of the numbers of a weight; "uint16" holds bfloat16.
        numbers: of a row.
        lane: numbers of a 32-bit lane, which one output channel has of a row of weights.
    """

    dtype: str
    numbers: int
    lane: int


TILE_UNITS = {"bf16": TileUnit("uint16", 32, 2), "int8": TileUnit("int8", 64, 4)}
"""By the kind of `insta.conv2d_tiles`."""


def narrow_tiles(
    weight: NDArray[np.float32], kind: str
) -> tuple[NDArray[np.int8] | NDArray[np.uint16], NDArray[np.int32], NDArray[np.float64]]:
    """Float weights for `insta.conv2d_tiles`: the numbers of `narrow_weight` in another order.

    Args:
        weight: canonical [O, KH, KW, C] float32.
        kind: "bf16" or "int8".

    Returns:
        The weight [O / 16, KH, U, 16, G], and sums and steps as `narrow_weight` has them.

    Raises:
        OpError: O is not a multiple of 16.
    """
    out, rows = weight.shape[:2]
    if out % CHANNELS:
        raise OpError(f"{out} output channels do not fill tiles; pass a multiple of 16")
    unit = TILE_UNITS[kind]
    packed, sums, steps = narrow_weight(weight, kind, 1)
    run = np.ascontiguousarray(packed.reshape(out, rows, -1), "<u4").view(unit.dtype)
    run = np.pad(run, ((0, 0), (0, 0), (0, -run.shape[2] % unit.numbers)))
    tiles = run.reshape(out // CHANNELS, CHANNELS, rows, -1, 16, unit.lane)
    ordered = np.ascontiguousarray(tiles.transpose(0, 2, 3, 4, 1, 5))
    return ordered.reshape(*ordered.shape[:4], unit.numbers), sums, steps
