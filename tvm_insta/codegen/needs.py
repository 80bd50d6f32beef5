"""Which features of a CPU the code needs: those of the target, and those that only kernels name.

LLVM uses the features of a target wherever it likes, but AMX only where a kernel says so. Such a
kernel carries the attribute `NEEDS`.
"""

from __future__ import annotations

import tvm
from tvm import tirx

from tvm_insta.target import InstaTarget

NEEDS = "tvm_insta.needs"
"""Attribute of a kernel, which its schedule sets: a list of features in LLVM's names."""


def kernel_needs(mod: tvm.IRModule) -> tuple[str, ...]:
    """The features, in LLVM's names and sorted, that kernels of a scheduled module name."""
    found: set[str] = set()
    for function in mod.functions.values():
        if isinstance(function, tirx.PrimFunc) and function.attrs and NEEDS in function.attrs:
            found |= set(map(str, function.attrs[NEEDS]))
    return tuple(sorted(found))


def all_needs(mod: tvm.IRModule, target: InstaTarget) -> tuple[str, ...]:
    """What a machine must have to run a scheduled module compiled for `target`."""
    return tuple(sorted({*target.needs, *kernel_needs(mod)}))
