"""What a float layer takes in float32, in narrow numbers as vectors, and in AMX tiles.

Rates of instructions in registers were measured on one core of a shared Emerald Rapids, and what
tiles cost beyond their products is that of `amx_cost`, which binary layers were fitted to. No
kernel of float layers in tiles has been timed. Where a figure had to be chosen, it is one that is
bad for tiles, and float32 is given its peak: the kernels here reach 36 to 92 % of it. As in
`amx_cost`, what all variants do alike is left out, so that no figure is a prediction of a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_insta.schedules.variants import FloatLayer, FloatVariant
from tvm_insta.schedules.x86.amx_cost import (
    HALF_CACHE,
    PRODUCT_NS,
    STREAM_NS,
    SUM_NS,
    streamed_ns,
)
from tvm_insta.schedules.x86.amx_shape import (
    CHANNELS,
    ROWS,
    UNIT,
    NumbersGeometry,
    rows_of_group,
)

FLOAT32_NS = 1 / 86
"""A multiply-add of float32: 86 GMAC/s with 512-bit FMA in registers."""


@dataclass(frozen=True)
class Numbers:
    """A kind of narrow numbers.

    Attributes:
        size: bytes of one.
        lane: numbers of a 32-bit lane, which one step of a dot product adds up.
        vector_ns: a multiply-add with vectors.
        product_ns: a product of tiles.
    """

    size: int
    lane: int
    vector_ns: float
    product_ns: float


NUMBERS = {
    "int8": Numbers(1, 4, vector_ns=1 / 345, product_ns=PRODUCT_NS),
    "bf16": Numbers(2, 2, vector_ns=1 / 29, product_ns=ROWS * CHANNELS * UNIT / 2 / 620),
}
"""VNNI 345 and `vdpbf16ps` 29 GMAC/s in registers; TDPBSSD as in `amx_cost`. TDPBF16PS: 620 GMAC/s
while a neighbour used the tiles of the core, too; alone it was twice as fast."""

CODE_NS = 4 / 3 / 16
"""A number of the image as a code. Not measured: a load, six to eight vector instructions and a
store for 16 numbers, by published rates (two such instructions a cycle) 4 cycles, at 3 GHz."""


LEAST_GAIN = 0.1
"""Share of the time in float32 that narrow numbers have to save: tasks configure their tiles, and
codes are written and read again, which is not counted. A choice, not a measurement."""


def geometry(layer: FloatLayer, kind: str) -> NumbersGeometry:
    """The layer as `write_tiles` takes it; `out_channels` a multiple of 16."""
    return NumbersGeometry(
        layer.image,
        layer.padding,
        layer.strides,
        layer.kernel,
        layer.channels,
        layer.out_channels,
        NUMBERS[kind].size,
    )


def fits_tiles(layer: FloatLayer) -> bool:
    """Whether the rule in `amx` can compute a layer."""
    return layer.out_channels % CHANNELS == 0


def float32_us(layer: FloatLayer) -> float:
    """Microseconds in float32."""
    taps = math.prod(layer.kernel) * layer.channels
    return (_products(layer, taps) * FLOAT32_NS + _streamed(layer, taps * 4)) / 1e3


def vectors_us(layer: FloatLayer, kind: str) -> float:
    """Microseconds in narrow numbers as vectors: a kernel row is cut into 32-bit lanes."""
    numbers = NUMBERS[kind]
    row = -(-layer.kernel[1] * layer.channels // numbers.lane) * numbers.lane
    taps = layer.kernel[0] * row
    fixed = _codes(layer) + _streamed(layer, taps * numbers.size)
    return (_products(layer, taps) * numbers.vector_ns + fixed) / 1e3


def tiles_us(layer: FloatLayer, kind: str) -> float:
    """Microseconds in AMX tiles: a kernel row is cut into units of 64 bytes."""
    shape = geometry(layer, kind)
    rows = rows_of_group(shape)
    sums = math.prod(shape.out_image) * layer.out_channels
    fixed = shape.products_of(rows) * NUMBERS[kind].product_ns + sums * SUM_NS + _codes(layer)
    return (fixed + streamed_ns(shape)) / 1e3


def _products(layer: FloatLayer, taps: int) -> float:
    """Multiply-adds of vectors of 16 output channels; a half takes as long as a whole one."""
    shape = geometry(layer, "int8")
    lanes = math.gcd(layer.out_channels, CHANNELS)
    return math.prod(shape.out_image) * layer.out_channels * taps * CHANNELS / lanes


def _codes(layer: FloatLayer) -> float:
    return math.prod(layer.image) * layer.channels * CODE_NS


def _streamed(layer: FloatLayer, each: int) -> float:
    """Nanoseconds of weights, `each` bytes an output channel, that no cache holds: read once."""
    total = layer.out_channels * each
    return total * STREAM_NS if total >= HALF_CACHE else 0.0


@dataclass(frozen=True)
class AmxFloats:
    """How float layers compute on a CPU whose tiles multiply a kind of narrow numbers.

    Attributes:
        kind: "bf16" or "int8".
    """

    kind: str

    def __call__(self, layer: FloatLayer) -> FloatVariant:
        """The variant that should be the fastest; float32 if nothing gains enough on it."""
        counted = self.counted(layer)
        limit = counted.pop(FloatVariant.FLOAT32) * (1 - LEAST_GAIN)
        fastest = min(counted, key=counted.__getitem__)
        return fastest if counted[fastest] < limit else FloatVariant.FLOAT32

    def counted(self, layer: FloatLayer) -> dict[FloatVariant, float]:
        """Microseconds of each variant that can compute a layer."""
        counted = {
            FloatVariant.FLOAT32: float32_us(layer),
            FloatVariant.VECTORS: vectors_us(layer, self.kind),
        }
        if fits_tiles(layer):
            counted[FloatVariant.TILES] = tiles_us(layer, self.kind)
        return counted

    def note(self, layer: FloatLayer) -> str:
        """The variant, and what decided."""
        if self(layer) is FloatVariant.FLOAT32:
            return f"stays in float32: {self.kind} would gain nothing here (by cost model)"
        return f"{self.kind} in {self(layer).value} (by cost model)"
