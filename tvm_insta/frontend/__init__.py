"""From PyTorch to Relax: a plain module whose constants are folded and whose layers have names."""

from __future__ import annotations

from tvm_insta.frontend.byte_input import ByteInput
from tvm_insta.frontend.inputs import random_tensors
from tvm_insta.frontend.torch_module import Imported, import_torch, trace_and_fold

__all__ = ["ByteInput", "Imported", "import_torch", "random_tensors", "trace_and_fold"]
