"""The operators of ONNX and QONNX as functions of PyTorch."""

from __future__ import annotations

from tvm_insta.frontend.onnx.operators import (
    activations,
    attention,
    channels_last,
    elementwise,
    indexed,
    layers,
    made,
    normalise,
    openvino,
    parts,
    pools,
    qlinear,
    qonnx,
    quantise,
    recurrent,
    reduce,
    resize,
    shapes,
)
from tvm_insta.frontend.onnx.operators.registry import Operator, domains, find, names

__all__ = [
    "Operator",
    "activations",
    "attention",
    "channels_last",
    "domains",
    "elementwise",
    "find",
    "indexed",
    "layers",
    "made",
    "names",
    "normalise",
    "openvino",
    "parts",
    "pools",
    "qlinear",
    "qonnx",
    "quantise",
    "recurrent",
    "reduce",
    "resize",
    "shapes",
]
