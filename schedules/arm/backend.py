"""Arm with NEON: AArch64, with and without dot products, and armv7."""

from __future__ import annotations

import tvm

from tvm_insta.schedules.arm.families import family
from tvm_insta.schedules.arm.neon import blocking, schedule_neon
from tvm_insta.schedules.arm.neon_tiles import neon_space
from tvm_insta.schedules.backend import Ability, BackEnd, Rule
from tvm_insta.schedules.base import Blocking, Family
from tvm_insta.schedules.generic.backend import RULES


def _triple(target: tvm.target.Target) -> str:
    return str(target.attrs.get("mtriple", ""))


class ArmBackEnd(BackEnd):
    """128-bit vectors; which sum is fast depends on dot products and on registers."""

    title = "Arm"

    @classmethod
    def takes(cls, target: tvm.target.Target) -> bool:
        """LLVM targets of an Arm triple; `Aarch64BackEnd` takes the 64-bit ones."""
        return target.kind.name == "llvm" and _triple(target).startswith("arm")

    def choose_family(self) -> Family:
        """By triple, CPU and features."""
        return family(_triple(self.target), str(self.target.attrs.get("mcpu", "")), self.features)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """NEON's binary convolutions first."""
        return (Rule("NEON convolution", schedule_neon, neon_space), *RULES)

    def binary_blocking(self, out_channels: int, bits: int) -> Blocking | None:
        """Pieces as wide as the sum takes."""
        return blocking(self.family, out_channels, bits)


class Aarch64BackEnd(ArmBackEnd):
    """64-bit Arm, which converts float16 as it loads and stores it."""

    title = "aarch64"
    abilities = (
        Ability(
            "stem",
            "int8",
            (frozenset({"dotprod"}),),
            "without dotprod NEON multiplies bytes no faster than float32",
        ),
        Ability("storage", "fp16"),
    )

    @classmethod
    def takes(cls, target: tvm.target.Target) -> bool:
        """LLVM targets of a 64-bit Arm triple."""
        return target.kind.name == "llvm" and _triple(target).startswith(("aarch64", "arm64"))
