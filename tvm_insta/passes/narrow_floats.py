"""Part of phase 5, `--stem bf16` and `--stem int8`: float layers compute in narrow numbers.

A layer stays in float32 if it has groups or a dilation, or too few output channels for a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.ops import packing
from tvm_insta.passes.calibrate import calibrate
from tvm_insta.passes.context import Context
from tvm_insta.passes.images import DenseAsImages, float_block
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Array, Expr, array, const, ints, names, op_name

_LEAST_LANES = 4  # the instructions work on vectors of four 32-bit lanes or more


@module_pass("NarrowFloats", when=lambda context: context.float_dtype != "fp32")
def narrow_floats(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Float layers with constant weights become `insta.conv2d_narrow`; they get a note.

    For "int8" the network is run on the samples first: they show the range of each layer's input.
    """
    int8 = context.float_dtype == "int8"
    largest = calibrate(mod, context.samples) if int8 else {}
    return _NarrowFloats(mod, context, largest).run()


class _NarrowFloats(DenseAsImages):
    def __init__(self, mod: tvm.IRModule, context: Context, largest: Mapping[str, float]) -> None:
        super().__init__(mod)
        self.context, self.largest = context, largest
        # The code of 0, as the target's instructions want it.
        self.zero = 0 if context.target.arch == "aarch64" else packing.ZERO_CODE

    def visit(self, call: Call) -> Expr:
        name, attrs = op_name(call), call.attrs
        weight = (
            array(call.args[1]) if name in ("relax.insta.conv2d", "relax.insta.dense") else None
        )
        if weight is None:
            return call
        if name == "relax.insta.dense":
            weight = weight.T[:, None, None, :]
            if not self._fits(weight):
                return call
            image = self.as_image(call.args[0])
            return self.as_vector(self._narrow(call, image, weight, [1, 1], [0, 0, 0, 0]))
        plain = ints(attrs["dilation"]) == [1, 1] and int(attrs["groups"]) == 1
        if not plain or not self._fits(weight):
            return call
        strides, padding = ints(attrs["strides"]), ints(attrs["padding"])
        return self._narrow(call, call.args[0], weight, strides, padding)

    def _fits(self, weight: Array) -> bool:
        return float_block(weight.shape[0], self.context) >= _LEAST_LANES

    def _narrow(
        self,
        call: Call,
        data: Expr,
        weight: Array,
        strides: Sequence[int],
        padding: Sequence[int],
    ) -> Expr:
        kind, layers = self.context.float_dtype, names(call.attrs["layers"])
        largest = max((self.largest.get(layer, 0.0) for layer in layers), default=0.0)
        lanes = float_block(weight.shape[0], self.context)
        packed, sums, steps = packing.narrow_weight(weight, kind, lanes)
        for layer in self.context.report.named(layers):
            layer.add_note(f"computed in {kind}")
        scale = packing.LARGEST_CODE / max(largest, 1e-30) if kind == "int8" else 1.0
        result = self.emit(
            ops.conv2d_narrow(
                data,
                const(packed, "uint32"),
                kind=kind,
                kernel_width=weight.shape[2],
                strides=strides,
                padding=padding,
                scale=scale,
                zero=self.zero,
                layers=layers,
            )
        )
        if kind == "bf16":
            return result
        if self.zero:
            added = const(self.zero * sums, "int32")
            result = self.emit(relax.op.subtract(result, added))
        values = self.emit(relax.op.astype(result, "float32"))
        return self.emit(relax.op.multiply(values, const(steps / scale)))
