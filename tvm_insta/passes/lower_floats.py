"""Part of phase 5: float32 weights are laid out in blocks of output channels, one per lane."""

from __future__ import annotations

import tvm
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.ops import packing
from tvm_insta.passes.context import Context
from tvm_insta.passes.images import DenseAsImages, float_block
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Array, Expr, array, const, op_name


@module_pass("LowerFloats")
def lower_floats(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Float layers with constant weights become `insta.conv2d_blocked`."""
    return _LowerFloats(mod, context).run()


class _LowerFloats(DenseAsImages):
    def __init__(self, mod: tvm.IRModule, context: Context) -> None:
        super().__init__(mod)
        self.context = context

    def visit(self, call: Call) -> Expr:
        name = op_name(call)
        weight = (
            array(call.args[1]) if name in ("relax.insta.conv2d", "relax.insta.dense") else None
        )
        if weight is None:
            return call
        if name == "relax.insta.dense":
            image, blocked = self.as_image(call.args[0]), self._blocked(weight.T[:, None, None, :])
            layers = ops.dense.of(call).layers
            return self.as_vector(
                self.emit(ops.conv2d_blocked(image, const(blocked), layers=layers))
            )
        args = [call.args[0], const(self._blocked(weight))]
        return ops.conv2d_blocked.with_attributes(args, ops.conv2d.of(call))

    def _blocked(self, weight: Array) -> Array:
        return packing.block_weight(weight, float_block(weight.shape[0], self.context))
