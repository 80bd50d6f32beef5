"""Schedules: how each PrimFunc of a legalised and fused Relax module runs on a target.

`schedule_module` schedules a module, `back_end` gives the object that owns all that depends on the
target. They know PrimFuncs and targets, and no pass and no Relax function. Each rule keeps the
meaning of a function: integers exactly, and the order of every float sum. What no rule fits stays
as it is, which is correct and slow, and is recorded as "unscheduled".
"""

from __future__ import annotations

from tvm_insta.schedules.backend import BackEnd, Fusion, ScheduleRecord
from tvm_insta.schedules.base import SCHEDULE_VERSION, Blocking, ConvTiles
from tvm_insta.schedules.driver import schedule_module
from tvm_insta.schedules.generic.kinds import BINARY_CONVOLUTIONS, CONVOLUTIONS, kind_of
from tvm_insta.schedules.registry import able, back_end
from tvm_insta.schedules.variants import (
    BinaryLayer,
    Measured,
    PackedLayer,
    RefusedMatrix,
    UsesTiles,
)

__all__ = [
    "BINARY_CONVOLUTIONS",
    "CONVOLUTIONS",
    "SCHEDULE_VERSION",
    "BackEnd",
    "BinaryLayer",
    "Blocking",
    "ConvTiles",
    "Fusion",
    "Measured",
    "PackedLayer",
    "RefusedMatrix",
    "ScheduleRecord",
    "UsesTiles",
    "able",
    "back_end",
    "kind_of",
    "schedule_module",
]
