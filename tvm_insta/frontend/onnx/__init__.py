"""From an ONNX or QONNX file to a PyTorch module.

``load`` reads and checks a file, `onnx_module` makes an `nn.Module` of it, and `settle` finds out
which batches it takes. From there it goes the way of every PyTorch module.
"""

from __future__ import annotations

from tvm_insta.frontend.onnx.batch import Batch, settle
from tvm_insta.frontend.onnx.graph import Graph
from tvm_insta.frontend.onnx.load import load
from tvm_insta.frontend.onnx.module import OnnxModule, input_dtype, onnx_module

__all__ = ["Batch", "Graph", "OnnxModule", "input_dtype", "load", "onnx_module", "settle"]
