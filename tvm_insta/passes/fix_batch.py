"""Part of phase 5: a symbolic batch gets the size that the plain-C form is compiled for."""

from __future__ import annotations

import tvm

from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass


@module_pass("FixBatch", when=lambda context: context.batch is not None)
def fix_batch(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Bind the symbolic dimensions of the inputs of ``main`` to `Context.batch`."""
    function = mod["main"]
    symbols = {
        dim
        for param in function.params
        for dim in param.ty.shape.values
        if not hasattr(dim, "value")
    }
    if not symbols:
        return mod
    fixed = function.bind_symbolic_vars({symbol: context.batch for symbol in symbols})
    return tvm.IRModule({"main": fixed.without_attr("tir_var_upper_bound")}, attrs=mod.attrs)
