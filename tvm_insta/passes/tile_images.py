"""Part of phase 5: in which form binary convolutions in AMX tiles get their images.

Where every reader of a level tensor is such a convolution, with the same padding, the kernel that
compares with the thresholds writes the padded image as bytes, +1 and -1, and tiles load it from
there. A popcount, another padding, or whatever else takes words: then words are packed, and each
convolution in tiles expands them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import tvm
from tvm.ir import Call

from tvm_insta import ops
from tvm_insta.ops.bitserial_conv2d_signs import spare_rows
from tvm_insta.passes.rewriter import Array, Expr, array, op_name, shape_of, variables
from tvm_insta.schedules import BinaryLayer, TileImage, UsesTiles

_PACK, _CONV = "relax.insta.threshold_pack", "relax.insta.bitserial_conv2d"


@dataclass(frozen=True)
class ByteImage:
    """The image of a level tensor that is written as bytes.

    Attributes:
        padding: of all convolutions that read it: top, left, bottom, right.
        spare: rows behind the padded image that tiles may load from.
    """

    padding: tuple[int, int, int, int]
    spare: int

    def written(self, pack: Call) -> Call:
        """The operator that writes it, in place of one that packs words."""
        said = ops.threshold_pack.of(pack)
        top, left, bottom, right = self.padding
        return ops.threshold_signs(
            *pack.args,
            compare=said.compare,
            nan=said.nan,
            site=said.site,
            pad=(top, left, bottom + self.spare, right),
        )


def byte_images(mod: tvm.IRModule, model: UsesTiles) -> dict[Expr, ByteImage]:
    """The level tensors that are written as bytes, by the variables of their words.

    Args:
        mod: before any binary convolution has become one in tiles.
        model: which are computed in tiles.
    """
    bindings = [binding for block in mod["main"].body.blocks for binding in block.bindings]
    readers: dict[Expr, list[Expr]] = {
        binding.var: [] for binding in bindings if op_name(binding.value) == _PACK
    }
    for binding in bindings:
        for var in variables(binding.value):
            if var in readers:
                readers[var].append(binding.value)
    result = mod["main"].body.body
    found = {}
    for var, calls in readers.items():
        image = None if var.same_as(result) else _byte_image(var, calls, model)
        if image is not None:
            found[var] = image
    return found


def _byte_image(var: Expr, calls: Sequence[Expr], model: UsesTiles) -> ByteImage | None:
    """The image for all that read the words `var`; None where they do not all take one."""
    image = image_size(var)
    if image is None or not calls:
        return None
    layers = []
    for call in calls:
        weight = array(call.args[1]) if op_name(call) == _CONV else None
        if weight is None:
            return None
        layer = binary_layer(weight, image, call)
        if not (model.fits(layer) and model(layer, TileImage.BYTES)):
            return None
        layers.append(layer)
    padding = layers[0].padding
    if any(layer.padding != padding for layer in layers):
        return None
    return ByteImage(padding, max(map(_spare, layers)))


def _spare(layer: BinaryLayer) -> int:
    _, left, _, right = layer.padding
    width = layer.image[1] + left + right
    return spare_rows(width, layer.kernel[1], layer.strides[1], layer.channels)


def image_size(words: Expr) -> list[int] | None:
    """Height and width of packed words, None where they are unknown."""
    image = shape_of(words)[1:3]
    return image if all(isinstance(size, int) for size in image) else None


def binary_layer(weight: Array, image: Sequence[int], call: Call) -> BinaryLayer:
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


def in_bytes(call: Call, image: ByteImage, signs: Expr) -> Call:
    """A convolution in tiles with the bytes `signs` in place of words."""
    said = ops.bitserial_conv2d_signs.of(call)
    attributes = replace(said, padding=(0, 0, 0, 0), image=TileImage.BYTES.value, spare=image.spare)
    return ops.bitserial_conv2d_signs.with_attributes([signs, call.args[1]], attributes)
