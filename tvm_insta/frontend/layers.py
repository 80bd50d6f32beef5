"""What the front end found out about each layer: its identity, and why it is binary or float."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """Why a layer stays float; the value is the code in reports and manifests."""

    NETWORK_INPUT = "network-input"
    REAL_INPUT = "real-input"
    UNDEFINED_AT_ZERO = "undefined-at-zero"
    INPUT_CHANGED = "input-changed"
    MANY_LEVELS = "many-levels"
    UNEVEN_LEVELS = "uneven-levels"
    CHANNEL_LEVELS = "channel-levels"
    REAL_WEIGHTS = "real-weights"
    MANY_WEIGHT_LEVELS = "many-weight-levels"
    INPUT_CHANNEL_SCALES = "input-channel-scales"
    COMPUTED_WEIGHTS = "computed-weights"
    DIMENSIONS = "dimensions"


@dataclass(frozen=True)
class WhyFloat:
    """One reason, in words.

    Attributes:
        code: what kind of reason.
        text: what was found, for this layer.
    """

    code: Reason
    text: str


@dataclass(frozen=True)
class SourceLayer:
    """One convolution or matrix product of the network, before any pass.

    Attributes:
        name: module path, or the name of the graph node where a layer belongs to no module; a
            module that is called again gets "#2" and so on.
        op: "conv2d", "conv3d", "dense" or "matmul" (of two computed tensors).
        line: file name and line of the user's code, "" where unknown.
        macs: multiply-accumulates for one image.
        weight_shape: ``[O, KH, KW, C / groups]`` or ``[O, C]``; empty for "matmul".
        output_shape: of one image, channels last.
        why_float: empty for a layer that is computed on packed bits.
        bits: of an activation of a binary layer; of the first factor of a "matmul".
        weight_bits: of a weight of a binary layer, ternary weights have 2; of the second factor.
        planes: convolutions of +-1 weights that compute the layer, or products of planes.
        notes: what a reader should know.
    """

    name: str
    op: str
    line: str
    macs: int
    weight_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    why_float: tuple[WhyFloat, ...] = ()
    bits: int = 0
    weight_bits: int = 0
    planes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def binary(self) -> bool:
        """Whether the layer is computed on packed bits."""
        return not self.why_float
