"""Patches put together (`fold`), and images read between their pixels (`grid_sample`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.operators.converter import bind
from tvm_insta.frontend.torch.operators.insert import Inserter, replace

_aten = torch.ops.aten
_BILINEAR, _NEAREST = 0, 1
_ZEROS, _BORDER = 0, 1


def _fold(node: fx.Node) -> bool:
    """A transposed convolution of each channel with one kernel of a single 1 for each tap."""
    bound = bind(node)
    patches: Any = bound["self"]
    value = patches.meta["val"]
    height, width = (int(size) for size in bound["kernel_size"])
    stride, padding, dilation, size = (
        [int(each) for each in bound[name]]
        for name in ("stride", "padding", "dilation", "output_size")
    )
    if value.ndim != 3 or not value.is_floating_point():
        return False
    taps, channels = height * width, int(value.shape[1]) // (height * width)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, (height, width), strict=True)]
    image = [
        (s + 2 * p - r) // step + 1
        for s, p, r, step in zip(size, padding, reach, stride, strict=True)
    ]
    left = [
        s - ((n - 1) * step - 2 * p + r)
        for s, n, step, p, r in zip(size, image, stride, padding, reach, strict=True)
    ]
    kernels = torch.eye(taps, dtype=value.dtype).view(taps, 1, height, width)
    insert = Inserter(node)
    weight = insert.constant(kernels.repeat(channels, 1, 1, 1), "taps")
    batch = insert.size(patches, 0)
    rows = insert.view(patches, [batch, channels * taps, *image])
    made = insert.call(
        _aten.convolution.default,
        rows, weight, None, stride, padding, dilation, True, left, channels,
    )  # fmt: skip
    replace(node, made)
    return True


def _grid_sample(node: fx.Node) -> bool:
    """Each result is one pixel or the sum of four, whose places the grid says.

    The places are computed as PyTorch's own kernel does, so that ties are rounded alike.
    """
    bound = bind(node)
    image: Any = bound["input"]
    grid: Any = bound["grid"]
    mode, padding = int(bound["interpolation_mode"]), int(bound["padding_mode"])
    shape, out = image.meta["val"].shape, grid.meta["val"].shape
    sizes = [*shape[1:], *out[1:]]
    if mode not in (_BILINEAR, _NEAREST) or padding not in (_ZEROS, _BORDER):
        return False
    types = {each.meta["val"].dtype for each in (image, grid)}
    if types != {torch.float32} or not all(isinstance(size, int) for size in sizes):
        return False
    sampler = _Sampler(Inserter(node), image, grid, padding, bool(bound["align_corners"]))
    replace(node, sampler.nearest() if mode == _NEAREST else sampler.bilinear())
    return True


class _Sampler:
    """Reads pixels at computed places."""

    def __init__(
        self, insert: Inserter, image: fx.Node, grid: fx.Node, padding: int, aligned: bool
    ) -> None:
        self.insert, self.padding = insert, padding
        self.batch = insert.size(image, 0)
        self.channels, self.height, self.width = (int(s) for s in image.meta["val"].shape[1:])
        self.rows, self.columns = (int(s) for s in grid.meta["val"].shape[1:3])
        pixels = [self.batch, self.channels, self.height * self.width]
        self.pixels = insert.view(image, pixels)
        self.x, self.y = (
            self._place(insert.call(_aten.select.int, grid, 3, axis), size, aligned)
            for axis, size in ((0, self.width), (1, self.height))
        )

    def _place(self, at: fx.Node, size: int, aligned: bool) -> fx.Node:
        """From -1..1 to pixels."""
        call = self.insert.call
        place = call(_aten.add.Tensor, at, 1.0)
        place = call(_aten.mul.Tensor, place, (size - 1) / 2 if aligned else size / 2)
        if not aligned:
            place = call(_aten.sub.Tensor, place, 0.5)
        if self.padding == _BORDER:
            place = call(_aten.clamp.default, place, 0.0, float(size - 1))
        return place

    def nearest(self) -> fx.Node:
        """The pixel next to each place; of two the one of even number."""
        x, y = (self.insert.call(_aten.round.default, each) for each in (self.x, self.y))
        return self._image(self._pixel(x, y))

    def bilinear(self) -> fx.Node:
        """The four pixels around each place."""
        call = self.insert.call
        ends = []
        for place in (self.x, self.y):
            first = call(_aten.floor.default, place)
            far = call(_aten.sub.Tensor, place, first)
            near = call(_aten.rsub.Scalar, far, 1.0)
            ends.append(((first, near), (call(_aten.add.Tensor, first, 1.0), far)))
        total: fx.Node | None = None
        for y, low in ends[1]:
            for x, left in ends[0]:
                weight = call(_aten.unsqueeze.default, call(_aten.mul.Tensor, low, left), 1)
                weight = self.insert.view(weight, [self.batch, 1, self.rows * self.columns])
                part = call(_aten.mul.Tensor, self._pixel(x, y), weight)
                total = part if total is None else call(_aten.add.Tensor, total, part)
        assert total is not None
        return self._image(total)

    def _pixel(self, x: fx.Node, y: fx.Node) -> fx.Node:
        """``[N, C, places]``: pixels of whole numbers x and y, 0 outside of the image."""
        call, count = self.insert.call, self.rows * self.columns
        inside: fx.Node | None = None
        whole = []
        for place, size in ((x, self.width), (y, self.height)):
            kept = call(_aten.clamp.default, place, 0.0, float(size - 1))
            within = call(_aten.eq.Tensor, kept, place)
            inside = within if inside is None else call(_aten.logical_and.default, inside, within)
            number = call(_aten.where.self, within, kept, self.insert.constant(_NOTHING, "nothing"))
            whole.append(call(_aten.to.dtype, number, torch.int64))
        at = call(_aten.add.Tensor, call(_aten.mul.Tensor, whole[1], self.width), whole[0])
        at = self.insert.view(at, [self.batch, 1, count])
        at = call(_aten.expand.default, at, [self.batch, self.channels, count])
        found = call(_aten.gather.default, self.pixels, 2, at)
        if self.padding == _BORDER:
            return found
        assert inside is not None
        inside = self.insert.view(inside, [self.batch, 1, count])
        nothing = self.insert.constant(_NOTHING, "nothing")
        return call(_aten.where.self, inside, found, nothing)

    def _image(self, found: fx.Node) -> fx.Node:
        return self.insert.view(found, [self.batch, self.channels, self.rows, self.columns])


_NOTHING = torch.zeros(())

PLACING: dict[str, Callable[[fx.Node], bool]] = {
    "aten.col2im.default": _fold,
    "aten.grid_sampler_2d.default": _grid_sample,
}
