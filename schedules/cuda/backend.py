"""CUDA: blocks and threads in place of vectors."""

from __future__ import annotations

from dataclasses import replace

import tvm
from tvm import tirx

from tvm_insta.schedules.backend import BackEnd, Fusion, Rule, ScheduleRecord, first_line
from tvm_insta.schedules.base import ConvTiles, Family
from tvm_insta.schedules.cuda.bind import CudaTile, bind, tiles_of
from tvm_insta.schedules.cuda.channel_kernels import channels_kept
from tvm_insta.schedules.cuda.matrix import refused, unit_of
from tvm_insta.schedules.generic.backend import GENERIC
from tvm_insta.schedules.generic.kinds import kind_of
from tvm_insta.schedules.variants import PackedLayer, RefusedMatrix


class CudaBackEnd(BackEnd):
    """One kernel for each function, see `bind`."""

    title = "CUDA"
    device_code = True
    fusion = Fusion.CHANNELS

    @classmethod
    def takes(cls, target: tvm.target.Target) -> bool:
        """Targets of kind "cuda"."""
        return bool(target.kind.name == "cuda")

    def choose_family(self) -> Family:
        """No figures yet."""
        return replace(GENERIC, name="cuda")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """None of a CPU's."""
        return ()

    def tiles_of(self, function: tirx.PrimFunc) -> list[CudaTile]:
        """The tiles of a function that are worth a measurement, see `bind.tiles_of`."""
        return tiles_of(function, self.target)[1]

    def refuses_matrix(self, layer: PackedLayer) -> RefusedMatrix | None:
        """By the card, and by what fits its shared memory."""
        return refused(layer, unit_of(self.target))

    def channels_kept(self, function: tirx.PrimFunc) -> int | None:
        """By its indices."""
        return channels_kept(function)

    def schedule(
        self, name: str, function: tirx.PrimFunc, lanes: int, wish: ConvTiles
    ) -> tuple[tirx.PrimFunc, ScheduleRecord]:
        """Bind a function to blocks and threads; its record names the kind of function it is."""
        try:
            bound = bind(function, self.target)
        except Exception as error:  # TVM may refuse a function in many ways
            bound, reason = None, first_line(error)
        else:
            reason = "" if bound is not None else "no rule applies"
        if bound is None:
            return function, ScheduleRecord(name, "unscheduled", None, reason)
        return bound, ScheduleRecord(name, kind_of(function))
