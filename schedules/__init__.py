"""Schedules: how each PrimFunc of a legalised and fused Relax module runs on a target.

`schedule_module` is the only entry. It knows PrimFuncs and targets, and no pass and no Relax
function. Each rule keeps the meaning of a function: integers exactly, and the order of every float
sum. What no rule fits stays as it is, which is correct and slow, and is recorded as "unscheduled".
"""

from __future__ import annotations

from tvm_insta.schedules.arm.neon import Blocking
from tvm_insta.schedules.base import ConvTiles, Family, Tiles
from tvm_insta.schedules.driver import (
    BinaryBlocking,
    ScheduleRecord,
    binary_blocking,
    family_of,
    float_block,
    schedule_module,
)
from tvm_insta.schedules.space import SCHEDULE_VERSION, choices
from tvm_insta.schedules.x86.variants import BinaryLayer, Measured, UsesTiles, uses_tiles

__all__ = [
    "SCHEDULE_VERSION",
    "BinaryBlocking",
    "BinaryLayer",
    "Blocking",
    "ConvTiles",
    "Family",
    "Measured",
    "ScheduleRecord",
    "Tiles",
    "UsesTiles",
    "binary_blocking",
    "choices",
    "family_of",
    "float_block",
    "schedule_module",
    "uses_tiles",
]
