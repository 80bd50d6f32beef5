"""ATen operators in Relax: an allow-list, rewrites and converters, each compared with PyTorch.

`prepare` takes a graph of core ATen operators and leaves only what `CONVERTERS` can turn into
Relax; anything else is refused in one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

from tvm_insta.frontend.torch.operators import (  # noqa: F401  (they fill the table)
    arithmetic,
    elementwise,
    indexing,
    layers,
    reductions,
    shapes,
)
from tvm_insta.frontend.torch.operators.converter import Convert, by_short_name, converters
from tvm_insta.frontend.torch.operators.convolutions import (
    sequences_to_images,
    transposed_to_plain,
)
from tvm_insta.frontend.torch.operators.prepare import prepare
from tvm_insta.frontend.torch.operators.symbols import SYMBOLIC

CONVERTERS = converters()
"""Converters of ATen operators by their full names, ``"aten.add.Tensor"``."""


def convert_map(own: Mapping[str, Convert]) -> dict[str, Convert]:
    """All converters for `from_exported_program(..., custom_convert_map=...)`.

    Args:
        own: converters of other namespaces by full names, ``"tvm_insta.levels.default"``.
    """
    symbolic = {operator.__name__: convert for operator, convert in SYMBOLIC.items()}
    return by_short_name(CONVERTERS, own) | symbolic


__all__ = ["CONVERTERS", "convert_map", "prepare", "sequences_to_images", "transposed_to_plain"]
