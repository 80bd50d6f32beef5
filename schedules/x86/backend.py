"""x86-64: AVX-512, AVX2, SSE, and AMX tiles where a processor has them."""

from __future__ import annotations

from collections.abc import Mapping

import tvm

from tvm_insta.schedules.backend import Ability, BackEnd, Rule
from tvm_insta.schedules.base import BinarySum, Blocking, Family
from tvm_insta.schedules.generic.backend import RULES
from tvm_insta.schedules.variants import (
    BinaryLayer,
    ChoosesFloats,
    Measured,
    TileWeights,
    UsesTiles,
)
from tvm_insta.schedules.x86.amx import amx_space, schedule_amx
from tvm_insta.schedules.x86.amx_float_cost import AmxFloats
from tvm_insta.schedules.x86.families import AMX, family
from tvm_insta.schedules.x86.nibbles import nibble_block, nibble_space, schedule_nibbles
from tvm_insta.schedules.x86.variants import AmxTiles

_TRIPLES = ("x86_64", "i386", "i686")


class X86BackEnd(BackEnd):
    """Vectors of 128 to 512 bits."""

    title = "x86-64"
    abilities = (
        Ability("stem", "bf16", (frozenset({"avx512bf16"}),)),
        Ability("stem", "int8", (frozenset({"avx512vnni"}), frozenset({"avxvnni"}))),
        Ability("storage", "fp16", (frozenset({"f16c"}),)),
        Ability("binary", "amx", (AMX,)),
        *(Ability("amx_weights", kind.value, (AMX,)) for kind in TileWeights),
    )

    @classmethod
    def takes(cls, target: tvm.target.Target) -> bool:
        """LLVM targets of such a triple, or of none."""
        triple = str(target.attrs.get("mtriple", ""))
        return target.kind.name == "llvm" and (not triple or triple.startswith(_TRIPLES))

    def choose_family(self) -> Family:
        """By the width of the vectors and how they count bits."""
        return family(self.features)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What only some of its targets have first."""
        return (
            Rule("AMX tiles", schedule_amx, amx_space),
            Rule("tables of counts", schedule_nibbles, nibble_space),
            *RULES,
        )

    def doubt(self, option: str, value: str) -> str:
        """AMD's cores multiply twice as many bfloat16 numbers a cycle as float32 ones.

        Intel's `vdpbf16ps` has half the rate of a float32 multiply-add: as many products a cycle,
        and images have to be rounded first. On Emerald Rapids ResNet-18's stem was slower than in
        float32. With AMX tiles of bfloat16 each layer takes what should be the fastest, float32
        too, see `chooses_floats`.
        """
        cpu = str(self.target.attrs.get("mcpu", ""))
        if (option, value) != ("stem", "bf16") or cpu.startswith("znver") or self.family.amx_bf16:
            return ""
        return (
            f"{cpu or 'a processor that is not AMD'} may multiply bfloat16 numbers no faster than "
            "float32 ones, as Intel's vdpbf16ps does"
        )

    def binary_blocking(self, out_channels: int, bits: int) -> Blocking | None:
        """Without VPOPCNTDQ bits are counted by table look-ups, four at a time where that fits."""
        if self.family.binary is BinarySum.WORDS:
            return None
        block = nibble_block(self.family, out_channels)
        if block:
            return Blocking("uint8", block, counts="nibbles")
        # Only whole vectors: LLVM 22 miscompiles some scalar code of this kind (it says so itself).
        whole = out_channels % self.family.lanes == 0
        return Blocking("uint32", self.family.lanes, counts="bytes") if whole else None

    def uses_tiles(
        self,
        wish: str = "auto",
        measured: Mapping[BinaryLayer, Measured] | None = None,
        weights: TileWeights | None = None,
    ) -> UsesTiles | None:
        """By wish, by measurement, else by the cost model."""
        return AmxTiles(wish, measured or {}, weights) if self.family.amx_tiles else None

    def chooses_floats(self, kind: str) -> ChoosesFloats | None:
        """By cost model, where tiles multiply such numbers."""
        has = self.family.amx_bf16 if kind == "bf16" else self.family.amx_tiles
        return AmxFloats(kind) if has else None
