"""What convolutions share: the attributes of their window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ._declare import LayerAttributes, integer, integers


@dataclass(frozen=True, kw_only=True)
class Window(LayerAttributes):
    """How a kernel moves over an image.

    Attributes:
        strides: vertical, horizontal.
        padding: top, left, bottom, right, in pixels of value 0.
    """

    strides: Sequence[int] = integers(2, low=1, default=(1, 1))
    padding: Sequence[int] = integers(4, low=0, default=(0, 0, 0, 0))


@dataclass(frozen=True, kw_only=True)
class GroupedWindow(Window):
    """A window with holes, over groups of channels.

    Attributes:
        dilation: vertical, horizontal.
        groups: convolution groups; output and input channels are multiples of it.
    """

    dilation: Sequence[int] = integers(2, low=1, default=(1, 1))
    groups: int = integer(low=1, default=1)
