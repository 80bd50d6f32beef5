"""Part of phase 5: which binary convolutions are computed in AMX tiles, and which by popcounts.

Both compute the same integers. The cost model is the back end's (`BackEnd.uses_tiles`): what the
user asked for, else the tuning records of both variants, else the back end's own constants. What
the tiles are given as images is decided with it, see `tile_images`.
"""

from __future__ import annotations

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
)
from tvm_insta.passes.tile_images import (
    ByteImage,
    binary_layer,
    byte_images,
    image_size,
    in_bytes,
)
from tvm_insta.schedules import BinaryLayer, TileImage, TileWeights, UsesTiles


def packed_image(rewriter: Rewriter, call: Call) -> list[int] | None:
    """Height and width of a binary convolution's packed input.

    None where `threshold_pack` does not make it, or where its size is unknown.
    """
    source = rewriter.calls.get(call.args[0])
    if source is None or op_name(source) != "relax.insta.threshold_pack":
        return None
    return image_size(call.args[0])


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
        self.images = byte_images(mod, model)
        self.signs: dict[Expr, tuple[ByteImage, Expr]] = {}  # words of the new function -> bytes

    def bind(self, binding: Expr) -> None:
        super().bind(binding)
        image = self.images.get(binding.var)
        if image is not None:  # the words are read by nothing any more
            words = self.env[binding.var]
            self.signs[words] = image, self.emit(image.written(self.calls[words]))

    def visit(self, call: Call) -> Expr:
        if op_name(call) != "relax.insta.bitserial_conv2d":
            return call
        weight, image = array(call.args[1]), packed_image(self, call)
        if weight is None or image is None:
            return call
        layer = binary_layer(weight, image, call)
        if not self.model.fits(layer):
            return call
        given = self.signs.get(call.args[0])
        kind = TileImage.BITS if given is None else TileImage.BYTES
        for entry in self.report.named(names(call.attrs["layers"])):
            entry.shape = layer
            entry.add_note(self.model.note(layer, kind))
        if not self.model(layer, kind):
            return call
        made = self._in_tiles(call, weight, layer)
        return made if given is None else in_bytes(made, *given)

    def _in_tiles(self, call: Call, weight: Array, layer: BinaryLayer) -> Call:
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
