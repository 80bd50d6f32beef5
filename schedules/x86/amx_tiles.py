"""The parameters of a binary convolution in AMX tiles: by rule, and those worth a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_insta.schedules.base import ConvTiles, NotApplicable, divisors, largest_divisor
from tvm_insta.schedules.x86.amx_shape import (
    CHANNELS,
    RING,
    Geometry,
    fits_group,
    own_band,
    own_vectors,
    rows_of_group,
    rows_stored_directly,
)

_AHEAD = 3  # tiles of weights, as in the hand-written loops that were measured
_UNROLLED, _MOST_UNROLLED = 8, 16  # pixels of the epilogue: by rule, and worth a measurement
_MOST_PRODUCTS = 1.1  # of groups of other rows, beside those that fill tiles best


@dataclass(frozen=True)
class TiledConvolution:
    """What the parameters depend on.

    Attributes:
        shape: of the convolution.
        bits: whether its weights are bits.
        bare: whether its sums are the result.
    """

    shape: Geometry
    bits: bool
    bare: bool

    @property
    def direct(self) -> bool:
        """Whether tiles are stored to the result itself."""
        return self.bare and rows_stored_directly(self.shape) > 0

    @property
    def own_rows(self) -> int:
        """Rows of a group by rule."""
        return rows_stored_directly(self.shape) if self.direct else rows_of_group(self.shape)

    def rows(self, tiles: ConvTiles) -> int:
        """Rows of a group."""
        return tiles.group_rows or self.own_rows


def choose_tiles(wish: ConvTiles, conv: TiledConvolution) -> ConvTiles:
    """Fill in the sizes that `wish` leaves open; `group_rows` stays 0 where the rule chooses.

    Raises:
        NotApplicable: a size does not fit.
    """
    shape, rows = conv.shape, conv.rows(wish)
    height, width = shape.out_image
    vectors = shape.out_channels // CHANNELS
    deep = wish.out_tile or own_vectors(shape)
    if deep > 2 or vectors % deep:
        raise NotApplicable(f"out_tile {deep} is not 1 or 2, or does not divide {vectors} vectors")
    if wish.group_rows and wish.group_rows not in _other_rows(conv):
        raise NotApplicable(f"group_rows {rows} of {height} do not fit tiles or the cache")
    band = wish.row_band or own_band(shape, deep, rows)
    if band % rows or height % band:
        raise NotApplicable(f"row_band {band} is no multiple of {rows} that divides {height} rows")
    across = wish.width_tile or _own_pixels(width)
    if width % across:
        raise NotApplicable(f"width_tile {across} does not divide {width} pixels")
    if wish.expand_ahead and not (conv.bits and wish.expand_ahead < RING):
        raise NotApplicable(
            f"expand_ahead {wish.expand_ahead} is for weights that are bits, and below {RING}"
        )
    return ConvTiles(across, deep, band, expand_ahead=wish.expand_ahead, group_rows=wish.group_rows)


def amx_choices(conv: TiledConvolution) -> list[ConvTiles]:
    """All sizes worth a measurement, in a fixed order; `choose_tiles` takes each as it stands."""
    shape = conv.shape
    height, width = shape.out_image
    pixels = [across for across in divisors(width) if across <= _MOST_UNROLLED]
    return [
        ConvTiles(across, deep, band, expand_ahead=ahead, group_rows=group)
        for across in ([_own_pixels(width)] if conv.direct else pixels)
        for deep in (1, 2)
        if shape.out_channels // CHANNELS % deep == 0
        for group in (0, *_other_rows(conv))
        for band in divisors(height)
        if band % (group or conv.own_rows) == 0
        and band <= own_band(shape, deep, group or conv.own_rows)
        for ahead in ((0, _AHEAD) if conv.bits else (0,))
    ]


def _other_rows(conv: TiledConvolution) -> list[int]:
    """Rows of a group that cost few more products than those by rule.

    Fewer rows leave more of the first-level cache to image and weights, and their epilogue begins
    earlier, beside the products of the next group.
    """
    shape = conv.shape
    if conv.direct or shape.strides != (1, 1):
        return []
    most = shape.products_of(conv.own_rows) * _MOST_PRODUCTS
    return [
        rows
        for rows in divisors(shape.out_image[0])
        if rows != conv.own_rows and fits_group(shape, rows) and shape.products_of(rows) <= most
    ]


def _own_pixels(width: int) -> int:
    """Pixels of the epilogue that are unrolled by rule; without an epilogue it says nothing."""
    return largest_divisor(width, _UNROLLED)
