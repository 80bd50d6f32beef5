"""An emulated CUDA device: kernels as nvcc's PTX, executed thread by thread on the CPU.

PTX is translated to C++ and compiled by this machine's compiler; the threads of a block are fibres.
What no card allows, or what a card leaves undefined, is an error: accesses out of bounds or
misaligned, races, barriers that not all threads reach, instructions whose result the PTX ISA does
not define. See docs/cuda.md for what this proves and what it does not.

    device = cuda_emulator.start("sm_90")  # TVM's CUDA run time finds a card now
"""

from __future__ import annotations

from tvm_insta.cuda_emulator.counts import LaunchCounts
from tvm_insta.cuda_emulator.device import Device, install, is_installed, start
from tvm_insta.cuda_emulator.options import Options, Order
from tvm_insta.cuda_emulator.ptx.classes import Unit
from tvm_insta.errors import EmulatorError

__all__ = [
    "Device",
    "EmulatorError",
    "LaunchCounts",
    "Options",
    "Order",
    "Unit",
    "install",
    "is_installed",
    "start",
]
