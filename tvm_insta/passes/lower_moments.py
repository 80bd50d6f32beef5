"""Part of phase 5: moments become sums of rows and a mean.

The kernel that makes the rows can take the sums along, see `fuse_consumers`.
"""

from __future__ import annotations

import tvm
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Expr, Rewriter, ints, op_name, shape_of


@module_pass("LowerMoments")
def lower_moments(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """`insta.moments` of images of a known width are `insta.moment_rows` and a mean of these."""
    return _LowerMoments(mod).run()


class _LowerMoments(Rewriter):
    def visit(self, call: Call) -> Expr:
        if op_name(call) != "relax.insta.moments":
            return call
        width = shape_of(call.args[0])[2]
        if not isinstance(width, int):
            return call
        rows = self.emit(ops.moment_rows(call.args[0], orders=ints(call.attrs["orders"])))
        return ops.moment_mean(rows, width=width)
