"""Part of phase 5: several moments of one tensor are one pass over it.

A statistic such as E[X^3] / E[X^2] asks for two. `insta.moments` has them from one sum over the
rows, which moreover is the only one that the kernel that makes the rows can take along.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_insta import ops
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Expr, Rewriter, ints, op_name

_MOMENTS = "relax.insta.moments"


@module_pass("MergeMoments")
def merge_moments(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Moments of one tensor, each of one order, become parts of one `insta.moments`."""
    return _MergeMoments(mod).run()


class _MergeMoments(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.orders: dict[Expr, set[int]] = {}
        for block in mod["main"].body.blocks:
            for binding in block.bindings:
                if (order := _only_order(binding.value)) is not None:
                    self.orders.setdefault(binding.value.args[0], set()).add(order)
        self.joined: dict[Expr, Expr] = {}

    def bind(self, binding: Expr) -> None:
        order = _only_order(binding.value)
        if order is None or len(self.orders[binding.value.args[0]]) == 1:
            super().bind(binding)
            return
        source = binding.value.args[0]
        orders = sorted(self.orders[source])
        if source not in self.joined:
            self.joined[source] = self.emit(ops.moments(self.new(source), orders=orders))
        at = orders.index(order)
        part = relax.op.strided_slice(self.joined[source], axes=[1], begin=[at], end=[at + 1])
        self.env[binding.var] = self.emit(part)


def _only_order(value: Expr) -> int | None:
    """The order of a call of `insta.moments` with one; None for anything else."""
    orders = ints(value.attrs["orders"]) if op_name(value) == _MOMENTS else []
    return orders[0] if len(orders) == 1 else None
