"""Kernels that compute the same integers in two ways, and who decides between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


@dataclass(frozen=True)
class ConvolutionLayer:
    """A convolution, as far as it decides how to compute it.

    Attributes:
        image: input height and width.
        channels: input channels.
        out_channels: output channels.
        kernel: height, width.
        strides: vertical, horizontal.
        padding: top, left, bottom, right.
    """

    image: tuple[int, int]
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]


@dataclass(frozen=True)
class BinaryLayer(ConvolutionLayer):
    """A binary convolution.

    Attributes:
        plain: one bipolar bit, no groups, no dilation.
    """

    plain: bool


@dataclass(frozen=True)
class Measured:
    """What the kernels of the layers of one shape took in each variant, in their log's unit."""

    popcount: float
    tiles: float


class TileWeights(Enum):
    """What tiles take as the weights of a convolution; the value is the operator's attribute.

    Attributes:
        BITS: bits, which a kernel expands; as much memory as for popcounts.
        BYTES: bytes, eight times the memory, which tiles load as they are.
    """

    BITS = "bits"
    BYTES = "bytes"


class TileImage(Enum):
    """What tiles are given as the image of a convolution; the value is the operator's attribute.

    Attributes:
        BITS: words of bits, which the kernel of the convolution expands first.
        BYTES: the padded image in bytes, written by the kernel that compares with thresholds.
    """

    BITS = "bits"
    BYTES = "bytes"


class UsesTiles(Protocol):
    """Which binary convolutions are computed in tiles, as `insta.bitserial_conv2d_signs`."""

    def fits(self, layer: BinaryLayer) -> bool:
        """Whether tiles could compute a layer."""

    def __call__(self, layer: BinaryLayer, image: TileImage = TileImage.BYTES) -> bool:
        """Whether tiles compute a layer whose image they are given in a form."""

    def weights(self, layer: BinaryLayer) -> TileWeights:
        """What the weights of a layer in tiles are kept as."""

    def note(self, layer: BinaryLayer, image: TileImage = TileImage.BYTES) -> str:
        """The variant of a layer that fits, and what decided, for people."""


@dataclass(frozen=True)
class FloatLayer(ConvolutionLayer):
    """A float convolution without groups and dilation."""


class FloatVariant(Enum):
    """How a float layer computes where narrow numbers are asked for.

    Attributes:
        FLOAT32: not in narrow numbers.
        VECTORS: with dot products of vectors, as `insta.conv2d_narrow`.
        TILES: in AMX tiles, as `insta.conv2d_tiles`.
    """

    FLOAT32 = "float32"
    VECTORS = "vectors"
    TILES = "AMX tiles"


class ChoosesFloats(Protocol):
    """How the float layers of a network compute in narrow numbers."""

    def __call__(self, layer: FloatLayer) -> FloatVariant:
        """The variant of a layer."""

    def note(self, layer: FloatLayer) -> str:
        """The same for people."""


@dataclass(frozen=True)
class PackedLayer:
    """A binary convolution of packed images that are padded already.

    Attributes:
        image: output height and width.
        out_channels: output channels.
        kernel: height, width.
        words: of a plane of bits of a pixel.
        bits: planes of bits.
        strides: vertical, horizontal.
        dilation: vertical, horizontal.
        groups: of channels.
    """

    image: tuple[int, int]
    out_channels: int
    kernel: tuple[int, int]
    words: int
    bits: int = 1
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class RefusedMatrix(Enum):
    """Why a binary convolution is no product of matrices; the value is a sentence for people."""

    NO_UNIT = "the target has no unit for products of matrices of bits"
    GROUPS = "tensor cores are for one group of channels"
    DILATION = "tensor cores take neighbouring taps, and the layer has a dilation"
    MEMORY = "the pixels of one step do not fit the shared memory of a block of threads"
