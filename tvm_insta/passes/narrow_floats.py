"""Part of phase 5, `--stem bf16` and `--stem int8`: float layers compute in narrow numbers.

A layer stays in float32 if it has groups or a dilation, or too few output channels for a vector.
On a target with AMX the back end chooses: tiles, vectors, or float32 where that is the fastest.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.ops import packing
from tvm_insta.ops.tile_numbers import narrow_tiles
from tvm_insta.passes.calibrate import calibrate
from tvm_insta.passes.context import Context
from tvm_insta.passes.images import DenseAsImages, float_block
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.rewriter import Array, Expr, array, const, ints, names, op_name, shape_of
from tvm_insta.schedules import FloatLayer, FloatVariant

_LEAST_LANES = 4  # the instructions work on vectors of four 32-bit lanes or more


@module_pass("NarrowFloats", when=lambda context: context.float_dtype != "fp32")
def narrow_floats(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Float layers with constant weights become narrow convolutions; they get a note.

    For "int8" the network is run on the samples first: they show the range of each layer's input.
    """
    int8 = context.float_dtype == "int8"
    largest = calibrate(mod, context.samples) if int8 else {}
    return _NarrowFloats(mod, context, largest).run()


class _NarrowFloats(DenseAsImages):
    def __init__(self, mod: tvm.IRModule, context: Context, largest: Mapping[str, float]) -> None:
        super().__init__(mod)
        self.context, self.largest = context, largest
        self.choice = context.back_end.chooses_floats(context.float_dtype)

    def visit(self, call: Call) -> Expr:
        name, attrs = op_name(call), call.attrs
        weight = (
            array(call.args[1]) if name in ("relax.insta.conv2d", "relax.insta.dense") else None
        )
        if weight is None:
            return call
        dense = name == "relax.insta.dense"
        if dense:
            weight = weight.T[:, None, None, :]
            image, strides, padding = [1, 1], [1, 1], [0, 0, 0, 0]
        else:
            if ints(attrs["dilation"]) != [1, 1] or int(attrs["groups"]) != 1:
                return call
            image = shape_of(call.args[0])[1:3]
            strides, padding = ints(attrs["strides"]), ints(attrs["padding"])
        if float_block(weight.shape[0], self.context) < _LEAST_LANES:
            return call
        layer = _layer(weight, image, strides, padding)
        variant = self._variant(call, layer)
        if variant is FloatVariant.FLOAT32:
            return call
        if not dense:
            return self._narrow(call, call.args[0], weight, layer, variant)
        made = self._narrow(call, self.as_image(call.args[0]), weight, layer, variant)
        return self.as_vector(made)

    def _variant(self, call: Call, layer: FloatLayer) -> FloatVariant:
        """How the layer computes; notes say so."""
        entries = self.context.report.named(names(call.attrs["layers"]))
        variant = FloatVariant.VECTORS if self.choice is None else self.choice(layer)
        for entry in entries:
            if variant is not FloatVariant.FLOAT32:
                entry.compute_dtype = self.context.float_dtype
                entry.add_note(f"computed in {self.context.float_dtype}")
            if self.choice is not None:
                entry.add_note(self.choice.note(layer))
        return variant

    def _narrow(
        self, call: Call, data: Expr, weight: Array, layer: FloatLayer, variant: FloatVariant
    ) -> Expr:
        kind, layers = self.context.float_dtype, names(call.attrs["layers"])
        largest = max((self.largest.get(name, 0.0) for name in layers), default=0.0)
        scale = packing.LARGEST_CODE / max(largest, 1e-30) if kind == "int8" else 1.0
        tiles = variant is FloatVariant.TILES
        # The code of 0, as the instructions want it: AMX and Arm multiply signed codes.
        signed = tiles or self.context.target.arch == "aarch64"
        zero = 0 if signed else packing.ZERO_CODE
        packed: Array
        if tiles:
            packed, sums, steps = narrow_tiles(weight, kind)
        else:
            lanes = float_block(weight.shape[0], self.context)
            packed, sums, steps = packing.narrow_weight(weight, kind, lanes)
        operator = ops.conv2d_tiles if tiles else ops.conv2d_narrow
        result = self.emit(
            operator(
                data,
                const(packed, str(packed.dtype)),
                kind=kind,
                kernel_width=weight.shape[2],
                strides=layer.strides,
                padding=layer.padding,
                scale=scale,
                zero=zero,
                layers=layers,
            )
        )
        if kind == "bf16":
            return result
        if zero:
            added = const(zero * sums, "int32")
            result = self.emit(relax.op.subtract(result, added))
        values = self.emit(relax.op.astype(result, "float32"))
        return self.emit(relax.op.multiply(values, const(steps / scale)))


def _layer(weight: Array, image: list[int], strides: list[int], padding: list[int]) -> FloatLayer:
    """A float convolution with a canonical weight [O, KH, KW, C]."""
    out, kernel_h, kernel_w, channels = weight.shape
    (height, width), (stride_y, stride_x), (top, left, bottom, right) = image, strides, padding
    return FloatLayer(
        image=(height, width),
        channels=channels,
        out_channels=out,
        kernel=(kernel_h, kernel_w),
        strides=(stride_y, stride_x),
        padding=(top, left, bottom, right),
    )
