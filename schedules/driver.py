"""`schedule_module`: every kernel of a module by the rules of the target's back end."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import tirx
from tvm.ir import IRModule

from tvm_insta.schedules.backend import ScheduleRecord
from tvm_insta.schedules.base import ConvTiles, Tiles
from tvm_insta.schedules.registry import back_end


def schedule_module(
    mod: IRModule,
    target: tvm.target.Target,
    *,
    lanes: int,
    parameters: Mapping[str, Tiles] | None = None,
) -> tuple[IRModule, list[ScheduleRecord]]:
    """Schedule every PrimFunc of a legalised and fused Relax module.

    Relax functions stay as they are. The batch dimension may be symbolic.

    Args:
        mod: the module; it is not changed.
        target: kind "llvm" or "cuda".
        lanes: 32-bit lanes of a vector register of the target, 1 or more.
        parameters: tile sizes by PrimFunc name, see `BackEnd.space`. Sizes that do not fit
            the function are ignored, and the defaults are used.

    Returns:
        The scheduled module, and one record per PrimFunc in the order of the names.
    """
    chosen = back_end(target)
    result = IRModule(dict(mod.functions), attrs=mod.attrs)
    records = []
    for variable, function in mod.functions.items():
        if isinstance(function, tirx.PrimFunc):
            name = variable.name_hint
            wish = (parameters or {}).get(name, ConvTiles())
            scheduled, record = chosen.schedule(name, function, lanes, wish)
            result.update_func(variable, scheduled)
            records.append(record)
    return result, sorted(records, key=lambda record: record.function)
