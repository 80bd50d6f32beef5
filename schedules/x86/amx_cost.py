"""What a binary convolution takes as popcounts and in AMX tiles, from measured constants.

All times are of one image on one core of a shared Emerald Rapids, best of alternating rounds. Three
kinds of figures went in:

- peaks of instructions in registers,
- this compiler's kernels for the 3x3 layers of ResNet-18, in tiles with weights as bits,
- hand-written loops, for those and for the 1x1 layers of MobileNetV1.

For the first, 2308 GMAC/s of TDPBSSD are 7.1 ns for one; 16 cycles at 3 GHz would be 5.3, but the
four bare kernels of this compiler (108, 89, 87 and 152 us) give 7.06 when products, tiles of
weights that are expanded and sums are fitted together, within 3 %.

Only differences of the two forms count: what both do alike, the epilogue above all, is left out of
both. So neither figure is a prediction of a kernel's time.
"""

from __future__ import annotations

import math

from tvm_insta.schedules.variants import BinaryLayer, TileImage, TileWeights
from tvm_insta.schedules.x86.amx_shape import (
    CHANNELS,
    ROWS,
    UNIT,
    WORD,
    Geometry,
    own_band,
    own_vectors,
    rows_of_group,
)

POPCOUNT_NS = 1 / (0.95 * 1012)
"""A multiply-add: 1012 GMAC/s of xor, vpopcntd and add in registers; kernels reach 93 to 97 %."""

PRODUCT_NS = ROWS * CHANNELS * UNIT / 2308
"""A TDPBSSD: 2308 GMAC/s in registers."""

EXPAND_NS = 35.0
"""A tile of weights from bits to bytes: fitted to this compiler's four 3x3 layers with PRODUCT_NS,
bare and with epilogue (34.7 and 34.5). At 7x7x512 they are half of the kernel's time."""

SIGN_NS = EXPAND_NS / (ROWS * UNIT)
"""A byte of the image that a kernel expands, which the same three instructions make; not measured
apart."""

PACKED_NS = SIGN_NS * 2 / 3
"""A byte of the image that the kernel of the comparisons writes, beyond what it takes to pack bits:
a count, not a measurement. Of the three instructions that expand bits - load a mask, blend, store -
the load is gone. That the masks need not be joined and stored as words any more is left out: by
llvm-mca's tables 64 channels take 4 cycles as bytes and 6 as words, and memory is not in them."""

SUM_NS = 0.09
"""A sum, beyond what it costs a popcount: tiles are stored and read back, and the epilogue does not
hide behind products. The least squares over the differences of both forms of eight layers, four
3x3 of this compiler with epilogue and four 1x1 of the hand-written loops: 0.06 to 0.15 each, and
0.23 at 7x7x512, where sums are few. The hand-written loops were given bytes, so their SIGN_NS is
counted though they had none."""

STREAM_NS = 0.007
"""A byte of weights that comes from behind the second-level cache. Hand-written loops took 31 us
more than products and sums for 2.4 MB that they read twice (7x7x512), and 15 us for 1 MiB twice
(1x1, 7x7x1024); for 590 kB (14x14x256) nothing that shows."""

HALF_CACHE = 1 << 20
"""Bytes of weights that are half of the second-level cache of a core with AMX, 2 MiB, which images
and sums share. Layers of up to as many keep them as bytes by default; layers of as many or more are
counted as streaming them, by STREAM_NS. At 1 MiB itself both hold: at 7x7x1024, 1x1, they are
counted to stream in 15 us, and to be expanded in 36.

Hand-written loops were as fast or faster with bytes up to 590 kB (63.8 us against 76.3 at
14x14x256), and slower with 2.4 MB (99.0 against 82.2 at 7x7x512)."""


def geometry(layer: BinaryLayer) -> Geometry:
    """The layer as `write_tiles` takes it."""
    return Geometry(
        layer.image, layer.padding, layer.strides, layer.kernel, layer.channels, layer.out_channels
    )


def own_weights(layer: BinaryLayer) -> TileWeights:
    """What a layer's weights are kept as by default, see `HALF_CACHE`."""
    small = geometry(layer).weight_bytes <= HALF_CACHE
    return TileWeights.BYTES if small else TileWeights.BITS


def popcount_us(layer: BinaryLayer) -> float:
    """Microseconds of the popcounts."""
    shape = geometry(layer)
    macs = math.prod(shape.out_image) * layer.out_channels * math.prod(layer.kernel)
    return macs * shape.words * WORD * POPCOUNT_NS / 1e3


def tiles_us(layer: BinaryLayer, weights: TileWeights, image: TileImage = TileImage.BYTES) -> float:
    """Microseconds in AMX tiles, beyond what popcounts need, too.

    Args:
        layer: the convolution.
        weights: what its weights are kept as.
        image: as what it gets its image.
    """
    shape = geometry(layer)
    rows, vectors = rows_of_group(shape), own_vectors(shape)
    sums = math.prod(shape.out_image) * layer.out_channels
    fixed = shape.products_of(rows) * PRODUCT_NS + sums * SUM_NS
    written = shape.padded[0] * shape.row
    fixed += written * (SIGN_NS if image is TileImage.BITS else PACKED_NS)
    if weights is TileWeights.BITS:
        bands = shape.out_image[0] // own_band(shape, vectors, rows)
        return (fixed + bands * shape.weight_bytes / (ROWS * UNIT) * EXPAND_NS) / 1e3
    return (fixed + streamed_ns(shape)) / 1e3


def streamed_ns(shape: Geometry) -> float:
    """Nanoseconds of weights that tiles load from behind the second-level cache."""
    if shape.weight_bytes < HALF_CACHE:
        return 0.0
    rows = rows_of_group(shape)
    passes = shape.out_image[0] // rows * shape.steps_of(rows, own_vectors(shape))
    return passes * shape.weight_bytes * STREAM_NS
