"""The emulator's second tier: TVM's CUDA C compiled by the machine's own compiler, without nvcc.

It executes what TVM's code generator writes, inline assembly included, with the checks of the first
tier. What nvcc makes of it is not part of it, see docs/cuda.md.
"""

from __future__ import annotations

from tvm_insta.cuda_emulator.cuda_c.translate import image, is_cuda_c, translate

__all__ = ["image", "is_cuda_c", "translate"]
