"""The operators of ONNX and QONNX as functions of PyTorch."""

from __future__ import annotations

from tvm_insta.frontend.onnx.operators import (
    elementwise,
    layers,
    normalise,
    pools,
    qonnx,
    quantise,
    reduce,
    resize,
    shapes,
)
from tvm_insta.frontend.onnx.operators.registry import Operator, domains, find, names

__all__ = [
    "Operator",
    "domains",
    "elementwise",
    "find",
    "layers",
    "names",
    "normalise",
    "pools",
    "qonnx",
    "quantise",
    "reduce",
    "resize",
    "shapes",
]
