"""From a PyTorch module to an ONNX or QONNX file."""

from __future__ import annotations

from tvm_insta.frontend.onnx.write.export import export

__all__ = ["export"]
