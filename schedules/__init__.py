"""Schedules: how each PrimFunc of a legalised and fused Relax module runs on a target.

`schedule_module` is the only entry. It knows PrimFuncs and targets, and no pass and no Relax
function. Each rule keeps the meaning of a function: integers exactly, and the order of every float
sum. What no rule fits stays as it is, which is correct and slow, and is recorded as "unscheduled".
"""

from __future__ import annotations

from .common import ConvTiles, Tiles
from .driver import BinaryBlocking, ScheduleRecord, binary_blocking, schedule_module
from .neon import Blocking

__all__ = [
    "BinaryBlocking",
    "Blocking",
    "ConvTiles",
    "ScheduleRecord",
    "Tiles",
    "binary_blocking",
    "schedule_module",
]
