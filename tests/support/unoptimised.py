"""Modules as TVM's default pipeline compiles them, without LLVM's optimisation.

LLVM would take longer than all else, and what tests of conversions and passes are about is the
module.
"""

from __future__ import annotations

import tvm
from tvm import relax

_TARGET = {"kind": "llvm", "opt-level": 0}


def virtual_machine(mod: tvm.IRModule) -> relax.VirtualMachine:
    """What executes a module on this machine."""
    return relax.VirtualMachine(tvm.compile(mod, tvm.target.Target(_TARGET)), tvm.cpu())
