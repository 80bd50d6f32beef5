"""`schedule_module`: choose and apply one rule per PrimFunc."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tvm
from tvm import tirx
from tvm.ir import IRModule

from tvm_insta.schedules.arm import families as arm
from tvm_insta.schedules.arm.neon import Blocking, blocking, schedule_neon
from tvm_insta.schedules.arm.neon_tiles import RULES as NEON_RULES
from tvm_insta.schedules.base import (
    GENERIC,
    ConvTiles,
    Family,
    Kernel,
    NotApplicable,
    blocks,
    is_reduction,
    name_of,
    rule_of,
    start,
)
from tvm_insta.schedules.cuda import fallback as cuda
from tvm_insta.schedules.generic.conv import RULES as CONV_RULES
from tvm_insta.schedules.generic.conv import schedule_conv
from tvm_insta.schedules.generic.float_ops import (
    reduction_kind,
    schedule_elementwise,
    schedule_reduction,
)
from tvm_insta.schedules.generic.fused_elementwise import schedule_sweep
from tvm_insta.schedules.generic.pack import schedule_pack
from tvm_insta.schedules.x86 import families as x86
from tvm_insta.schedules.x86.amx import RULE as SIGNS_RULE
from tvm_insta.schedules.x86.amx import schedule_signs

_LOG = logging.getLogger(__name__)

BinaryBlocking = Callable[[int, int], Blocking | None]
"""See `binary_blocking`."""

_RULES: tuple[Callable[[Kernel], tuple[str, ConvTiles | None]], ...] = (
    schedule_neon,
    schedule_signs,
    schedule_conv,
    schedule_sweep,
    schedule_pack,
    schedule_reduction,
    schedule_elementwise,
)


@dataclass(frozen=True)
class ScheduleRecord:
    """How one PrimFunc was scheduled.

    Attributes:
        function: name of the PrimFunc in the module.
        rule: "insta_bconv", "insta_bconv_bytes", "insta_bconv_pairs", "insta_bconv_signs",
            "insta_fconv", "insta_pack", "sweep", "moments", "pool", "reduction", "elementwise" or
            "unscheduled".
        tiles: the tile sizes that were used, for convolutions and packing of images on a CPU.
        reason: why the rule that is meant for the function did not apply; "" where it did.
    """

    function: str
    rule: str
    tiles: ConvTiles | None = None
    reason: str = ""


def schedule_module(
    mod: IRModule,
    target: tvm.target.Target,
    *,
    lanes: int,
    parameters: Mapping[str, ConvTiles] | None = None,
) -> tuple[IRModule, list[ScheduleRecord]]:
    """Schedule every PrimFunc of a legalised and fused Relax module.

    Relax functions stay as they are. The batch dimension may be symbolic.

    Args:
        mod: the module; it is not changed.
        target: kind "llvm" or "cuda".
        lanes: 32-bit lanes of a vector register of the target, 1 or more.
        parameters: tile sizes by PrimFunc name, for convolutions on a CPU. Sizes that do not fit
            the function are ignored, and the defaults are used.

    Returns:
        The scheduled module, and one record per PrimFunc in the order of the names.
    """
    gpu = target.kind.name == "cuda"
    family = GENERIC if gpu else family_of(target)
    result = IRModule(dict(mod.functions), attrs=mod.attrs)
    records = []
    for variable, function in mod.functions.items():
        if isinstance(function, tirx.PrimFunc):
            name = variable.name_hint
            if gpu:
                scheduled, record = _bind_function(name, function, target)
            else:
                wish = (parameters or {}).get(name, ConvTiles())
                scheduled, record = _schedule_function(name, function, family, lanes, wish)
            result.update_func(variable, scheduled)
            records.append(record)
    return result, sorted(records, key=lambda record: record.function)


def binary_blocking(target: tvm.target.Target) -> BinaryBlocking:
    """How binary weights without groups are laid out for a CPU target.

    Args:
        target: kind "llvm".

    Returns:
        (output channels, bits of an activation) -> the layout, or None for blocks of words as wide
        as the target's vectors.
    """
    family = family_of(target)
    return lambda out_channels, bits: blocking(family, out_channels, bits)


def float_block(target: tvm.target.Target) -> int:
    """Output channels of a block of a float32 weight for a CPU target; 0 for one plain vector."""
    return family_of(target).float_block


def family_of(target: tvm.target.Target) -> Family:
    """The CPU family of an LLVM target, by its triple and the features LLVM gives it."""
    triple = str(target.attrs.get("mtriple", ""))
    if not triple or triple.startswith(("x86_64", "i386", "i686")):
        return x86.family(_features(target))
    if triple.startswith(("aarch64", "arm")):
        return arm.family(triple, str(target.attrs.get("mcpu", "")), _features(target))
    return GENERIC


def _features(target: tvm.target.Target) -> frozenset[str]:
    return frozenset(map(str, tvm.target.codegen.llvm_get_cpu_features(target)))


def _schedule_function(
    name: str, function: tirx.PrimFunc, family: Family, lanes: int, wish: ConvTiles
) -> tuple[tirx.PrimFunc, ScheduleRecord]:
    reason = ""
    for rule in _RULES:
        # Own tile sizes that do not fit are worth one retry with the defaults.
        for tiles in (wish, ConvTiles()) if wish != ConvTiles() else (wish,):
            kernel = Kernel(start(function), family, lanes, tiles)
            try:
                label, used = rule(kernel)
            except NotApplicable as error:
                reason = reason or str(error)
            except Exception as error:  # whatever went wrong, the unscheduled function is correct
                reason = f"{rule.__name__}: {_first_line(error)}"
                _LOG.warning("%s: %s", name, reason)
            else:
                return _restore(kernel.schedule.mod["main"], function), ScheduleRecord(
                    name, label, used, reason
                )
    return function, ScheduleRecord(name, "unscheduled", None, reason)


def _bind_function(
    name: str, function: tirx.PrimFunc, target: tvm.target.Target
) -> tuple[tirx.PrimFunc, ScheduleRecord]:
    """Schedule one function for a GPU; the record names the kind of function it is."""
    try:
        bound = cuda.bind(function, target)
    except Exception as error:  # TVM's rule may refuse a function in many ways
        bound, reason = None, _first_line(error)
    else:
        reason = "" if bound is not None else "TVM's fallback rule does not apply"
    if bound is None:
        _LOG.warning("%s: %s", name, reason)
        return function, ScheduleRecord(name, "unscheduled", None, reason)
    return bound, ScheduleRecord(name, kind_of(function))


def kind_of(function: tirx.PrimFunc) -> str:
    """The rule that a CPU would use for the function, by its blocks."""
    schedule = start(function)
    every = blocks(schedule)
    marked = {rule_of(schedule, block) for block in every} & {
        *CONV_RULES,
        *NEON_RULES,
        SIGNS_RULE,
        "insta_pack",
    }
    if marked:
        return min(marked)
    if any(is_reduction(schedule, block) for block in every):
        return reduction_kind([name_of(schedule, block) for block in every])
    return "elementwise"


def _restore(scheduled: tirx.PrimFunc, original: tirx.PrimFunc) -> tirx.PrimFunc:
    """Give the scheduled function the original's symbol, or none."""
    symbol = original.attrs.get("global_symbol") if original.attrs else None
    if symbol is None:
        return scheduled.without_attr("global_symbol")
    return scheduled.with_attr("global_symbol", symbol)


def _first_line(error: Exception) -> str:
    """The sentence of a TVM error without the printed IR in front of it."""
    text = str(error)
    message = text.rsplit("Error message:", maxsplit=1)[-1].strip()
    return message.splitlines()[0] if message else type(error).__name__
