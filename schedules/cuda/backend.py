"""CUDA: blocks and threads in place of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import tvm
from tvm import tirx

from tvm_insta.schedules.backend import Ability, BackEnd, Fusion, Rule, ScheduleRecord, first_line
from tvm_insta.schedules.base import Family, Tiles
from tvm_insta.schedules.cuda.bind import CudaTile, bind_with, tiles_of
from tvm_insta.schedules.cuda.channel_kernels import channels_kept
from tvm_insta.schedules.cuda.matrix import refused, unit_of
from tvm_insta.schedules.generic.backend import GENERIC
from tvm_insta.schedules.generic.kinds import kind_of
from tvm_insta.schedules.variants import PackedLayer, RefusedMatrix


class CudaBackEnd(BackEnd):
    """One kernel for each function, see `bind`."""

    title = "CUDA"
    abilities = (Ability("storage", "fp16"),)
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
        self, name: str, function: tirx.PrimFunc, lanes: int, wish: Tiles
    ) -> tuple[tirx.PrimFunc, ScheduleRecord]:
        """Bind a function to blocks and threads; its record names the kind of function it is.

        A tile that is none of the function's is ignored.
        """
        tile = next((each for each in self._wished(function, wish) if each == wish), None)
        try:
            bound = bind_with(function, self.target, tile)
        except Exception as error:  # TVM may refuse a function in many ways
            bound, reason = None, first_line(error)
        else:
            reason = "" if bound is not None else "no rule applies"
        if bound is None:
            return function, ScheduleRecord(name, "unscheduled", None, reason)
        return bound.function, ScheduleRecord(name, kind_of(function), bound.tile)

    def _wished(self, function: tirx.PrimFunc, wish: Tiles) -> list[CudaTile]:
        """The tiles that a wish may be one of; without a wish none, which saves the search."""
        return self.tiles_of(function) if isinstance(wish, CudaTile) else []

    def space(self, function: tirx.PrimFunc, lanes: int) -> Sequence[Tiles]:
        """As `tiles_of`, whose first is the default."""
        return self.tiles_of(function)
