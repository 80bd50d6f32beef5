"""A deployment compiler for binary neural networks with instance-aware thresholds.

`build` compiles a PyTorch module, `build_onnx` an ONNX file, `load` runs an artefact,
`tvm_insta.nn` holds the networks and `tvm_insta.train` trains them. The names are resolved when
first used: a board that only loads
artefacts needs neither PyTorch nor the compiler.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_insta import train
    from tvm_insta.compiler.artefact import Artefact
    from tvm_insta.compiler.driver import build
    from tvm_insta.compiler.onnx_model import build_onnx
    from tvm_insta.compiler.options import CompileOptions
    from tvm_insta.runtime import Module, load

__version__ = "0.1.0"
__all__ = ["Artefact", "CompileOptions", "Module", "build", "build_onnx", "load", "train"]

_HOME = {
    "Artefact": "tvm_insta.compiler.artefact",
    "CompileOptions": "tvm_insta.compiler.options",
    "Module": "tvm_insta.runtime",
    "build": "tvm_insta.compiler.driver",
    "build_onnx": "tvm_insta.compiler.onnx_model",
    "load": "tvm_insta.runtime",
}


def __getattr__(name: str) -> Any:
    if name == "train":
        return import_module("tvm_insta.train")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
