"""CUDA: one kernel for each PrimFunc, scheduled by rules of our own.

Each rule keeps the meaning of a function: integers exactly, and the order of every float sum, which
is part of what an operator means (of `insta.moments` above all). So a float sum stays within one
thread; sums of integers may be shared out.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import tvm
from tvm import s_tir, tirx

from tvm_insta.schedules.base import NotApplicable, start, with_symbol_of
from tvm_insta.schedules.cuda.channels import schedule_channels
from tvm_insta.schedules.cuda.float_tiles import schedule_float
from tvm_insta.schedules.cuda.functions import with_defined_functions
from tvm_insta.schedules.cuda.image import schedule_image
from tvm_insta.schedules.cuda.pack import schedule_pack
from tvm_insta.schedules.cuda.popcount import schedule_popcount
from tvm_insta.schedules.cuda.simplify import with_simple_indices
from tvm_insta.schedules.cuda.tensor_cores import schedule_matrix
from tvm_insta.schedules.cuda.threads import schedule_stages, schedule_threads

_LOG = logging.getLogger(__name__)

Rule = Callable[[tirx.PrimFunc, tvm.target.Target], tirx.PrimFunc]


def _by(rule: Callable[[s_tir.Schedule], None]) -> Rule:
    """A rule that changes a schedule, as one of functions."""

    @functools.wraps(rule)
    def scheduled(function: tirx.PrimFunc, _: tvm.target.Target) -> tirx.PrimFunc:
        schedule = start(function)
        rule(schedule)
        return schedule.mod["main"]

    return scheduled


def _channels(function: tirx.PrimFunc, _: tvm.target.Target) -> tirx.PrimFunc:
    return schedule_channels(function)


_RULES: Sequence[Rule] = (
    schedule_matrix,
    _by(schedule_popcount),
    _by(schedule_float),
    _by(schedule_pack),
    _channels,
    _by(schedule_threads),
    _by(schedule_image),
    _by(schedule_stages),
)


def bind(function: tirx.PrimFunc, target: tvm.target.Target) -> tirx.PrimFunc | None:
    """Bind a PrimFunc to the blocks and threads of a GPU.

    Args:
        function: legalised and fused; its batch may be symbolic.
        target: kind "cuda".

    Returns:
        The scheduled function, or None if no rule applies to it.
    """
    function = with_simple_indices(with_defined_functions(function))
    for rule in _RULES:
        with target:
            try:
                scheduled = rule(function, target)
            except NotApplicable:
                continue
            except Exception as error:  # TVM refuses in many ways; the rules behind are simpler
                _LOG.debug("%s: %s", rule.__name__, error)
                continue
        return with_symbol_of(scheduled.with_attr("tirx.is_scheduled", True), function)
    return None
