"""CUDA: one kernel for each PrimFunc, scheduled by rules of our own.

Each rule keeps the meaning of a function: integers exactly, and the order of every float sum, which
is part of what an operator means (of `insta.moments` above all). So a float sum stays within one
thread; sums of integers may be shared out.

A rule that has a choice says which tiles are worth a measurement (`tiles_of`), and takes each as it
stands (`bind`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import tvm
from tvm import s_tir, tirx

from tvm_insta.schedules.base import NotApplicable, start, with_symbol_of
from tvm_insta.schedules.cuda.border import with_border_in_sum
from tvm_insta.schedules.cuda.channels import ChannelTile, channel_tiles, schedule_channels
from tvm_insta.schedules.cuda.float_tiles import FloatTile, float_tiles, schedule_float
from tvm_insta.schedules.cuda.functions import with_defined_functions
from tvm_insta.schedules.cuda.image import schedule_image
from tvm_insta.schedules.cuda.matrix import MatrixTile
from tvm_insta.schedules.cuda.pack import schedule_pack
from tvm_insta.schedules.cuda.popcount import PopcountTile, popcount_tiles, schedule_popcount
from tvm_insta.schedules.cuda.simplify import with_simple_indices
from tvm_insta.schedules.cuda.tensor_cores import matrix_tiles, schedule_matrix
from tvm_insta.schedules.cuda.threads import schedule_stages, schedule_threads

_LOG = logging.getLogger(__name__)

CudaTile: TypeAlias = ChannelTile | FloatTile | MatrixTile | PopcountTile
"""How a kernel of one of the families is shared out."""


@dataclass(frozen=True)
class CudaRule:
    """One way to schedule a function.

    Attributes:
        name: of the family of kernels.
        apply: the scheduled function, for a tile of the family or its own. Raises `NotApplicable`.
        tiles: those worth a measurement, the rule's own first; None where there is no choice.
            Raises as `apply`.
    """

    name: str
    apply: Callable[[tirx.PrimFunc, tvm.target.Target, Any], tirx.PrimFunc]
    tiles: Callable[[tirx.PrimFunc, tvm.target.Target], Sequence[CudaTile]] | None = None


def _changing(
    rule: Callable[..., None],
) -> Callable[[tirx.PrimFunc, tvm.target.Target, Any], tirx.PrimFunc]:
    """A rule that changes a schedule, as one of functions."""

    def apply(function: tirx.PrimFunc, _: tvm.target.Target, tile: Any) -> tirx.PrimFunc:
        schedule = start(function)
        rule(schedule, *([] if tile is None else [tile]))
        return schedule.mod["main"]

    return apply


def _asking(
    tiles: Callable[[s_tir.Schedule], Sequence[CudaTile]],
) -> Callable[[tirx.PrimFunc, tvm.target.Target], Sequence[CudaTile]]:
    """The tiles of a schedule, as those of a function."""
    return lambda function, _: tiles(start(function))


RULES: Sequence[CudaRule] = (
    CudaRule("matrix", schedule_matrix, matrix_tiles),
    CudaRule("popcount", _changing(schedule_popcount), _asking(popcount_tiles)),
    CudaRule("float", _changing(schedule_float), _asking(float_tiles)),
    CudaRule("pack", _changing(schedule_pack)),
    CudaRule(
        "channels",
        lambda function, _, tile: schedule_channels(function, tile),
        lambda function, _: channel_tiles(function),
    ),
    CudaRule("threads", _changing(schedule_threads)),
    CudaRule("image", _changing(schedule_image)),
    CudaRule("stages", _changing(schedule_stages)),
)
"""In the order in which they are tried."""


def bind(
    function: tirx.PrimFunc, target: tvm.target.Target, tile: CudaTile | None = None
) -> tirx.PrimFunc | None:
    """Bind a PrimFunc to the blocks and threads of a GPU.

    Args:
        function: legalised and fused; its batch may be symbolic.
        target: kind "cuda".
        tile: one of `tiles_of`; None leaves it to the rule.

    Returns:
        The scheduled function, or None if no rule applies to it.
    """
    bound = bind_with(function, target, tile)
    return None if bound is None else bound.function


@dataclass(frozen=True)
class Bound:
    """A scheduled function, and the tile that its rule was told."""

    function: tirx.PrimFunc
    tile: CudaTile | None


def bind_with(
    function: tirx.PrimFunc, target: tvm.target.Target, tile: CudaTile | None
) -> Bound | None:
    """As `bind`; says, too, whether the tile was used."""
    prepared = _prepared(function)
    for rule in RULES:
        with target:
            try:
                scheduled = rule.apply(prepared, target, tile if rule.tiles else None)
            except NotApplicable:
                continue
            except Exception as error:  # TVM refuses in many ways; the rules behind are simpler
                _LOG.debug("%s: %s", rule.name, error)
                continue
        done = with_symbol_of(scheduled.with_attr("tirx.is_scheduled", True), function)
        return Bound(done, tile if rule.tiles else None)
    return None


def tiles_of(
    function: tirx.PrimFunc, target: tvm.target.Target
) -> tuple[CudaRule | None, list[CudaTile]]:
    """What there is to choose about a function.

    Args:
        function: as of `bind`.
        target: kind "cuda".

    Returns:
        The rule that schedules it, None if there is none, and the tiles worth a measurement in a
        fixed order, of which `bind` takes the first by itself; none where there is no choice.
    """
    prepared = _prepared(function)
    for rule in RULES:
        with target:
            try:
                rule.apply(prepared, target, None)
                return rule, list(rule.tiles(prepared, target)) if rule.tiles else []
            except Exception as error:  # as `bind`
                _LOG.debug("%s: %s", rule.name, error)
    return None, []


def _prepared(function: tirx.PrimFunc) -> tirx.PrimFunc:
    return with_border_in_sum(with_simple_indices(with_defined_functions(function)))
