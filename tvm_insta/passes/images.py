"""Dense layers as 1x1 convolutions on 1x1 images: one kernel family serves both."""

from __future__ import annotations

from tvm import relax

from tvm_insta.passes.context import Context
from tvm_insta.passes.rewriter import Expr, Rewriter, shape_of


class DenseAsImages(Rewriter):
    """A rewriter that turns vectors into images of one pixel, and back."""

    def as_image(self, data: Expr) -> Expr:
        """``[N, C]`` as ``[N, 1, 1, C]``."""
        batch, channels = shape_of(data)
        return self.emit(relax.op.reshape(data, [batch, 1, 1, channels]))

    def as_vector(self, image: Expr) -> Expr:
        """``[N, 1, 1, C]`` as ``[N, C]``."""
        batch, _, _, channels = shape_of(image)
        return self.emit(relax.op.reshape(image, [batch, channels]))


def block_width(out_channels: int, widest: int) -> int:
    """The largest of the widest block, its half and so on that divides the output channels."""
    lanes = widest
    while out_channels % lanes:
        lanes //= 2
    return lanes


def float_block(out_channels: int, context: Context) -> int:
    """Output channels of a block of a float weight, in the target's own width."""
    return block_width(out_channels, context.back_end.float_block or context.target.lanes)
