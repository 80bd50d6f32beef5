"""What a file may ask for: everything above is refused before it is computed or allocated.

A network of this field has a few hundred nodes and some megabytes. The limits lie far above that,
and below what would keep a machine busy for minutes: reading any file, whatever it holds, takes
less than 10 s and 2 GB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm_insta.errors import ImportModelError

FILE_BYTES = 512 << 20
"""Of the file itself."""
EXTERNAL_BYTES = 1 << 30
"""Of all tensors that lie in files beside it."""
NODES = 10_000
"""After local functions are written out."""
INPUTS = 256
"""Inputs that are no weights; and outputs."""
DIM = 1 << 22
"""Largest dimension of a tensor."""
ELEMENTS = 1 << 27
"""Of one tensor, the images of a batch not counted."""
CONSTANT_BYTES = 1 << 30
"""Of all constants that are alive at a time."""
FOLDED_ELEMENTS = 1 << 29
"""Of all results that are computed from constants alone."""
ACTIVATION_ELEMENTS = 1 << 29
"""Of all tensors that one image makes."""
MACS = 1 << 36
"""Multiply-accumulates of one image."""
SHAPE_NUMBERS = 64
"""Float64 numbers of one constant that are kept as they are, for the arithmetic of shapes."""
RANK = 8
"""Dimensions of a tensor."""
NAME = 512
"""Characters of a name."""
SPAN = 1 << 12
"""Kernels, strides, dilations and pads of convolutions and pools."""


def check_shape(shape: Sequence[int], what: str) -> None:
    """Do nothing if a tensor of ``shape`` may exist.

    Raises:
        ImportModelError: a negative or absurd dimension, too many dimensions or elements.
    """
    if len(shape) > RANK:
        raise ImportModelError(f"{what} has {len(shape)} dimensions, but at most {RANK} are taken")
    for dim in shape:
        if not 0 <= dim <= DIM:
            raise ImportModelError(
                f"{what} has a dimension of {dim}, but 0 to {DIM} are taken: see that the file is "
                "what its exporter wrote"
            )
    if math.prod(shape) > ELEMENTS:
        raise ImportModelError(
            f"{what} has {math.prod(shape)} elements, but at most {ELEMENTS} are taken"
        )
