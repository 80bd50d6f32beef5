"""Schedules: how each PrimFunc of a legalised and fused Relax module runs on a target.

`schedule_module` schedules a module, `back_end` gives the object that owns all that depends on the
target. They know PrimFuncs and targets, and no pass and no Relax function. Each rule keeps the
meaning of a function: integers exactly, and the order of every float sum. What no rule fits stays
as it is, which is correct and slow, and is recorded as "unscheduled".
"""

from __future__ import annotations

from tvm_insta.schedules.backend import BackEnd, Fusion, ScheduleRecord
from tvm_insta.schedules.base import SCHEDULE_VERSION, Blocking, ConvTiles, Tiles
from tvm_insta.schedules.cuda.channels import ChannelTile
from tvm_insta.schedules.cuda.float_tiles import FloatTile
from tvm_insta.schedules.cuda.matrix import MatrixTile
from tvm_insta.schedules.cuda.popcount import PopcountTile
from tvm_insta.schedules.cuda.tensor_cores import packed_layer
from tvm_insta.schedules.driver import schedule_module
from tvm_insta.schedules.generic.kinds import BINARY_CONVOLUTIONS, CONVOLUTIONS, kind_of
from tvm_insta.schedules.registry import able, back_end
from tvm_insta.schedules.variants import (
    BinaryLayer,
    ChoosesFloats,
    FloatLayer,
    FloatVariant,
    Measured,
    PackedLayer,
    RefusedMatrix,
    TileImage,
    TileWeights,
    UsesTiles,
)

TILE_KINDS: tuple[type[Tiles], ...] = (
    ConvTiles,
    ChannelTile,
    FloatTile,
    MatrixTile,
    PopcountTile,
)
"""What a tuning record may hold; no two kinds have the same names of fields."""

__all__ = [
    "BINARY_CONVOLUTIONS",
    "CONVOLUTIONS",
    "SCHEDULE_VERSION",
    "TILE_KINDS",
    "BackEnd",
    "BinaryLayer",
    "Blocking",
    "ChoosesFloats",
    "ConvTiles",
    "FloatLayer",
    "FloatVariant",
    "Fusion",
    "MatrixTile",
    "Measured",
    "PackedLayer",
    "RefusedMatrix",
    "ScheduleRecord",
    "TileImage",
    "TileWeights",
    "Tiles",
    "UsesTiles",
    "able",
    "back_end",
    "kind_of",
    "packed_layer",
    "schedule_module",
]
