"""Schedules: how each PrimFunc of a legalised and fused Relax module runs on a target.

`schedule_module` is the only entry. It knows PrimFuncs and targets, and no pass and no Relax
function. Each rule keeps the meaning of a function: integers exactly, and the order of every float
sum. What no rule fits stays as it is, which is correct and slow, and is recorded as "unscheduled".
"""

from __future__ import annotations

from .common import ConvTiles, Family, Tiles
from .driver import (
    BinaryBlocking,
    ScheduleRecord,
    binary_blocking,
    family_of,
    float_block,
    schedule_module,
)
from .forms import BinaryLayer, Measured, UsesTiles, uses_tiles
from .neon import Blocking
from .space import SCHEDULE_VERSION, choices

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
