"""Phase 7: every kernel is scheduled for the target."""

from __future__ import annotations

import tvm

from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.schedules import schedule_module


@module_pass("Schedule")
def schedule(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Schedule the PrimFuncs by the back end's rules; the report gets a record of each."""
    chosen = None if context.choose_tiles is None else context.choose_tiles(mod)
    target = context.target
    made, records = schedule_module(mod, target.tvm, lanes=target.lanes, parameters=chosen)
    context.report.schedules = records
    return made
