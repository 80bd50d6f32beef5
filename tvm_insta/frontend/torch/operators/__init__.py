"""ATen operators in Relax: an allow-list, rewrites and converters, each compared with PyTorch.

`prepare` takes a graph of core ATen operators and leaves only what `CONVERTERS` can turn into
Relax; anything else is refused in one sentence.
"""

from __future__ import annotations

from tvm_insta.frontend.torch.operators import (  # noqa: F401  (they fill the table)
    arithmetic,
    elementwise,
    indexing,
    layers,
    reductions,
    shapes,
)
from tvm_insta.frontend.torch.operators.converter import converters
from tvm_insta.frontend.torch.operators.convolutions import (
    sequences_to_images,
    transposed_to_plain,
)
from tvm_insta.frontend.torch.operators.prepare import prepare

CONVERTERS = converters()
"""Converters of ATen operators by their full names, ``"aten.add.Tensor"``."""

__all__ = ["CONVERTERS", "prepare", "sequences_to_images", "transposed_to_plain"]
