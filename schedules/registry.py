"""The back ends, and which of them a target gets."""

from __future__ import annotations

import tvm

from tvm_insta.schedules.arm.backend import Aarch64BackEnd, ArmBackEnd
from tvm_insta.schedules.backend import Ability, BackEnd
from tvm_insta.schedules.cuda.backend import CudaBackEnd
from tvm_insta.schedules.generic.backend import GenericBackEnd
from tvm_insta.schedules.x86.backend import X86BackEnd

BACK_ENDS: tuple[type[BackEnd], ...] = (
    X86BackEnd,
    Aarch64BackEnd,
    ArmBackEnd,
    CudaBackEnd,
    GenericBackEnd,  # takes what is left
)


def back_end(target: tvm.target.Target) -> BackEnd:
    """The back end of a target.

    Args:
        target: kind "llvm" or "cuda".

    Raises:
        ValueError: no back end takes a target of its kind.
    """
    for kind in BACK_ENDS:
        if kind.takes(target):
            return kind(target, _features(target))
    kinds = "llvm or cuda"
    raise ValueError(f"no back end takes targets of kind {target.kind.name}, only {kinds}")


def able(option: str, value: str) -> list[tuple[type[BackEnd], Ability]]:
    """The back ends that can serve a restricted value of an option, and what each needs for it.

    Returns:
        Nothing for a value that every target can serve.
    """
    return [
        (kind, ability)
        for kind in BACK_ENDS
        for ability in kind.abilities
        if (ability.option, ability.value) == (option, value)
    ]


def _features(target: tvm.target.Target) -> frozenset[str]:
    if target.kind.name != "llvm":
        return frozenset()
    return frozenset(map(str, tvm.target.codegen.llvm_get_cpu_features(target)))
