"""Tensors that are never exactly 0, so that their sign has two values.

The result of a binary layer is a multiple of one number per output channel: ``unit * k + offset``
with an integer k, where batch norm, a bias or a scale follows. Whether such a number can be 0 is
decided for every k that can occur: ``sign`` of an odd sum has no third value, and behind a batch
norm it has none unless an offset meets a multiple.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, constant, shape_of

_MARGIN = 1e-5
"""A value counts as 0 if it is smaller than this times its terms: PyTorch's sum of ``unit * k`` and
``offset`` has been rounded, and so has ours."""

_KEEPS_NONZERO = frozenset(
    f"aten.{name}"
    for name in (
        "tanh neg view _unsafe_view reshape permute transpose squeeze unsqueeze slice select clone "
        "max_pool2d_with_indices max_pool2d adaptive_max_pool2d flip pixel_shuffle pixel_unshuffle "
        "index_select expand repeat upsample_nearest2d"
    ).split()
)
"""Operators whose result is 0 only where an operand is: they move elements or are odd."""


@dataclass(frozen=True)
class Lattice:
    """A tensor equal to ``unit[c] * k + offset[c]`` with integers ``|k| <= most``.

    Attributes:
        unit: ``[C]`` float64.
        offset: ``[C]`` float64.
        most: the largest magnitude of k.
        odd: whether every k is odd.
        axis: the dimension of the tensor that c counts: 1 behind a convolution, the last behind a
            product.
    """

    unit: torch.Tensor
    offset: torch.Tensor
    most: int
    odd: bool
    axis: int

    def never_zero(self) -> bool:
        """Whether no admissible k gives 0, by a margin that no rounding bridges."""
        unit = torch.where(self.unit == 0, 1e-300, self.unit)
        exact = (-self.offset / unit).clamp(-(2.0**40), 2.0**40)
        step, shift = (2, 1) if self.odd else (1, 0)
        nearest = ((exact - shift) / step).round() * step + shift
        nearest = nearest.clamp(-self.most, self.most)
        around = torch.stack([nearest - step, nearest, nearest + step]).clamp(-self.most, self.most)
        values = (self.unit * around + self.offset).abs().amin(0)
        return bool((values > _MARGIN * (self.unit.abs() + self.offset.abs())).all())


class Lattices:
    """Lattices of the tensors of one graph; those of layers are entered by `enter`."""

    def __init__(self) -> None:
        self._known: dict[fx.Node, Lattice | None] = {}

    def enter(self, node: fx.Node, lattice: Lattice) -> None:
        """Say what a layer's result is."""
        self._known[node] = lattice

    def never_zero(self, node: fx.Node) -> bool:
        """Whether no element of a tensor can be 0."""
        lattice = self.of(node)
        if lattice is not None:
            return lattice.never_zero()
        source = node.args[0] if node.args else None
        if node.target is operator.getitem:
            kept = bool(node.args[1] == 0)
        else:
            kept = self._keeps_nonzero(node)
        return kept and isinstance(source, fx.Node) and self.never_zero(source)

    def of(self, node: fx.Node) -> Lattice | None:
        """The lattice of a tensor, None where it is none."""
        if node not in self._known:
            self._known[node] = None
            self._known[node] = self._find(node)
        return self._known[node]

    def _keeps_nonzero(self, node: fx.Node) -> bool:
        name = base_name(node)
        if name in ("aten.clamp", "aten.hardtanh"):
            return _clamps_about_zero(node)
        if name in ("aten.mul", "aten.div", "aten._prelu_kernel", "aten.prelu"):
            factor = _number(node.args[1])
            return factor is not None and bool((factor != 0).all() and torch.isfinite(factor).all())
        return name in _KEEPS_NONZERO

    def _find(self, node: fx.Node) -> Lattice | None:
        source = node.args[0] if node.args else None
        if node.target is operator.getitem and isinstance(source, fx.Node):
            normed = base_name(source) == "aten._native_batch_norm_legit_no_training"
            return self._batch_norm(source) if normed and node.args[1] == 0 else None
        name = base_name(node)
        if name not in ("aten.add", "aten.sub", "aten.mul", "aten.div") or node.kwargs:
            return None
        return self._affine(node, name)

    def _affine(self, node: fx.Node, name: str) -> Lattice | None:
        """A lattice times or plus a constant."""
        left, right = node.args
        lattice = self.of(left) if isinstance(left, fx.Node) else None
        other = right
        if lattice is None and name in ("aten.add", "aten.mul"):
            lattice, other = (self.of(right) if isinstance(right, fx.Node) else None), left
        if lattice is None:
            return None
        vector = _channels(_number(other), lattice, len(shape_of(node)))
        if vector is None:
            return None
        if name in ("aten.mul", "aten.div"):
            factor = vector if name == "aten.mul" else 1.0 / vector
            return replace(lattice, unit=lattice.unit * factor, offset=lattice.offset * factor)
        return replace(lattice, offset=lattice.offset + (vector if name == "aten.add" else -vector))

    def _batch_norm(self, node: fx.Node) -> Lattice | None:
        source, gamma, beta, mean, variance, _, epsilon = node.args
        lattice = self.of(source) if isinstance(source, fx.Node) else None
        statistics = [_number(each) for each in (mean, variance)]
        if lattice is None or any(each is None for each in statistics):
            return None
        if lattice.axis != 1:  # batch norm counts the channels of dimension 1
            return None
        centre, spread = (each.to(torch.float64) for each in statistics if each is not None)
        factor = 1.0 / torch.sqrt(spread + float(epsilon))  # type: ignore[arg-type]
        if gamma is not None:
            scale = _number(gamma)
            if scale is None:
                return None
            factor = factor * scale.to(torch.float64)
        shift = torch.zeros(1, dtype=torch.float64)
        if beta is not None:
            added = _number(beta)
            if added is None:
                return None
            shift = added.to(torch.float64)
        offset = (lattice.offset - centre) * factor + shift
        return replace(lattice, unit=lattice.unit * factor, offset=offset)


def _clamps_about_zero(node: fx.Node) -> bool:
    """Whether 0 lies inside the bounds, so that no other number becomes 0."""
    hard = base_name(node) == "aten.hardtanh"
    defaults: tuple[Any, ...] = (-1.0, 1.0) if hard else (None, None)
    given: tuple[Any, ...] = node.args[1:]
    below, above = (*given, *defaults[len(given) :])
    low, high = (None if each is None else _number(each) for each in (below, above))
    if (below is not None and low is None) or (above is not None and high is None):
        return False  # a bound that is computed from the input
    return (low is None or bool((low < 0).all())) and (high is None or bool((high > 0).all()))


def _number(operand: Any) -> torch.Tensor | None:
    if isinstance(operand, (int, float)):
        return torch.tensor(float(operand), dtype=torch.float64)
    return constant(operand)


def _channels(value: torch.Tensor | None, lattice: Lattice, rank: int) -> torch.Tensor | None:
    """A constant as one number per channel, None where it is more than that."""
    if value is None:
        return None
    channels = lattice.unit.numel()
    if value.numel() == 1:
        return value.to(torch.float64).reshape(1).expand(channels)
    shape = [1] * (rank - value.ndim) + list(value.shape)
    if value.numel() != channels or shape[lattice.axis] != channels:
        return None
    return value.to(torch.float64).reshape(-1)
