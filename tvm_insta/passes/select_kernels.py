"""Part of phase 5: which binary convolutions are computed in AMX tiles, and which by popcounts.

Both compute the same integers. The cost model is the back end's (`BackEnd.uses_tiles`): what the
user asked for, else the tuning records of both variants, else the back end's own constants.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.ops import packing
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.report import Report
from tvm_insta.passes.rewriter import (
    Array,
    Expr,
    Rewriter,
    array,
    const,
    names,
    op_name,
    shape_of,
)
from tvm_insta.schedules import BinaryLayer, TileWeights, UsesTiles


def packed_image(rewriter: Rewriter, call: Call) -> list[int] | None:
    """Height and width of a binary convolution's packed input.

    None where `threshold_pack` does not make it, or where its size is unknown.
    """
    source = rewriter.calls.get(call.args[0])
    if source is None or op_name(source) != "relax.insta.threshold_pack":
        return None
    image = shape_of(call.args[0])[1:3]
    return image if all(isinstance(size, int) for size in image) else None


@module_pass("SelectKernels")
def select_kernels(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """Binary convolutions that are faster in tiles become `insta.bitserial_conv2d_signs`.

    Layers that could be either get their shape, and a note of what decided.
    """
    wished = None if context.amx_weights == "auto" else TileWeights(context.amx_weights)
    model = context.back_end.uses_tiles(context.binary, context.measured or None, wished)
    return mod if model is None else _SelectKernels(mod, model, context.report).run()


class _SelectKernels(Rewriter):
    def __init__(self, mod: tvm.IRModule, model: UsesTiles, report: Report) -> None:
        super().__init__(mod)
        self.model, self.report = model, report

    def visit(self, call: Call) -> Expr:
        if op_name(call) != "relax.insta.bitserial_conv2d":
            return call
        weight, image = array(call.args[1]), packed_image(self, call)
        if weight is None or image is None:
            return call
        layer = _binary_layer(weight, image, call)
        if not self.model.fits(layer):
            return call
        for entry in self.report.named(names(call.attrs["layers"])):
            entry.shape = layer
            entry.add_note(self.model.note(layer))
        return self._in_tiles(call, weight, layer) if self.model(layer) else call

    def _in_tiles(self, call: Call, weight: Array, layer: BinaryLayer) -> Expr:
        kind, tiled = self.model.weights(layer), packing.tile_weight(weight, layer.channels)
        if kind is TileWeights.BYTES:
            octets = packing.tile_bytes(tiled, layer.channels, weight.shape[2])
            own = const(octets, "int8")
        else:
            own = const(tiled, "uint32")
        return ops.bitserial_conv2d_signs(
            call.args[0],
            own,
            in_channels=layer.channels,
            kernel_width=weight.shape[2],
            weights=kind.value,
            strides=layer.strides,
            padding=layer.padding,
            layers=names(call.attrs["layers"]),
        )


def _binary_layer(weight: Array, image: Sequence[int], call: Call) -> BinaryLayer:
    """A binary convolution with a packed weight [O, KH, KW, Cw], as its form depends on it."""
    said = ops.bitserial_conv2d.of(call)
    (height, width), (stride_y, stride_x) = image, said.strides
    top, left, bottom, right = said.padding
    return BinaryLayer(
        image=(height, width),
        channels=said.in_channels,
        out_channels=weight.shape[0],
        kernel=(weight.shape[1], weight.shape[2]),
        strides=(stride_y, stride_x),
        padding=(top, left, bottom, right),
        plain=said.bits == said.groups == 1
        and said.encoding == "bipolar"
        and tuple(said.dilation) == (1, 1),
    )
