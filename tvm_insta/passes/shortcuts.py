"""Part of phase 5: average pools that shortcuts are made of become an expression.

A 2x2 average pool at stride 2 that is only added to something, the shortcut of a block that halves
the image, becomes `insta.halving_pool`, which `fuse_consumers` can compute where it is added.
"""

from __future__ import annotations

import tvm
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import (
    Expr,
    Rewriter,
    dtype_of,
    ints,
    op_name,
    rank,
    read_twice,
    shape_of,
)


@module_pass("PoolShortcuts")
def pool_shortcuts(mod: tvm.IRModule, _: Context) -> tvm.IRModule:
    """Write the average pools of shortcuts as expressions; `mod` is in NHWC."""
    return _PoolShortcuts(mod).run()


class _PoolShortcuts(Rewriter):
    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        twice = read_twice(mod)
        self.added = {
            arg
            for block in mod["main"].body.blocks
            for binding in block.bindings
            if op_name(binding.value) == "relax.add"
            for arg in binding.value.args
            if arg not in twice
        }
        self.may = False

    def bind(self, binding: Expr) -> None:
        self.may = binding.var in self.added
        super().bind(binding)

    def visit(self, call: Call) -> Expr:
        if self.may and op_name(call) == "relax.nn.avg_pool2d" and _is_halving(call):
            return ops.halving_pool(call.args[0])
        return call


def _is_halving(call: Call) -> bool:
    data, attrs = call.args[0], call.attrs
    if rank(data) != 4 or dtype_of(data) != "float32" or str(attrs.layout) != "NHWC":
        return False
    image = shape_of(data)[1:3]
    known = all(isinstance(size, int) and size > 1 for size in image)
    even = known and not any(size % 2 for size in image)
    return (
        known
        and (even or not bool(attrs.ceil_mode))
        and ints(attrs.pool_size) == ints(attrs.strides) == [2, 2]
        and ints(attrs.dilation) == [1, 1]
        and not any(ints(attrs.padding))
    )
