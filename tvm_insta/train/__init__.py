"""Training of binary neural networks: ``python -m tvm_insta.train``, or `train` as a function.

The recipe is ReActNet's two steps: binary activations with real weights first, then binary weights
too, from the first step's result. Names are resolved when first used, so that the command line
answers a wrong argument before PyTorch is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_insta.train.options import Execution, Recipe
    from tvm_insta.train.trainer import Result, train

__all__ = ["Execution", "Recipe", "Result", "train"]

_HOME = {
    "Execution": "tvm_insta.train.options",
    "Recipe": "tvm_insta.train.options",
    "Result": "tvm_insta.train.trainer",
    "train": "tvm_insta.train.trainer",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
