"""Any CPU that TVM's LLVM knows and that no other back end takes."""

from __future__ import annotations

import tvm

from tvm_insta.schedules.backend import BackEnd, Rule
from tvm_insta.schedules.base import Family, WordMask
from tvm_insta.schedules.generic.conv import conv_space, schedule_conv
from tvm_insta.schedules.generic.float_ops import schedule_elementwise, schedule_reduction
from tvm_insta.schedules.generic.fused_elementwise import schedule_fused_elementwise
from tvm_insta.schedules.generic.pack import pack_space, schedule_pack

GENERIC = Family("generic", lanes=4, accumulators=8, float_accumulators=8, word_mask=WordMask.OR)
"""A CPU of which we have no figures: sixteen 128-bit registers."""

RULES = (
    Rule("convolution", schedule_conv, conv_space),
    Rule("fused element-wise code", schedule_fused_elementwise),
    Rule("packing", schedule_pack, pack_space),
    Rule("reduction", schedule_reduction),
    Rule("element-wise code", schedule_elementwise),
)
"""What every CPU can do."""


class GenericBackEnd(BackEnd):
    """Plain vector code."""

    title = "a CPU"

    @classmethod
    def takes(cls, target: tvm.target.Target) -> bool:
        """Every LLVM target: it stands last in the registry."""
        return bool(target.kind.name == "llvm")

    def choose_family(self) -> Family:
        """`GENERIC`."""
        return GENERIC

    @property
    def rules(self) -> tuple[Rule, ...]:
        """`RULES`."""
        return RULES
