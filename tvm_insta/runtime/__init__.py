"""Load and run artefacts; imports neither torch nor the compiler.

module = load("build/model")
logits = module(x)
"""

from __future__ import annotations

from tvm_insta.runtime.manifest import Binarisation, FileEntry, Kernel, Layer, Manifest, TensorInfo
from tvm_insta.runtime.module import Module, load
from tvm_insta.runtime.trace import TraceEntry

__all__ = [
    "Binarisation",
    "FileEntry",
    "Kernel",
    "Layer",
    "Manifest",
    "Module",
    "TensorInfo",
    "TraceEntry",
    "load",
]
