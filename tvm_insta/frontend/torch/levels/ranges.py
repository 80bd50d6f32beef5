"""Between which numbers the elements of a tensor lie, as far as the operators say it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from tvm_insta.frontend.torch.graph import base_name, constant, is_tensor

_UNKNOWN = (-math.inf, math.inf)
_FIXED = {
    "aten.sigmoid": (0.0, 1.0),
    "aten.hardsigmoid": (0.0, 1.0),
    "aten._softmax": (0.0, 1.0),
    "aten.tanh": (-1.0, 1.0),
    "aten.sign": (-1.0, 1.0),
    "aten.relu": (0.0, math.inf),
}
_NOT_NEGATIVE = frozenset(f"aten.{name}" for name in "abs exp sqrt square".split())
"""Of real numbers; integers wrap around: ``abs`` of -128 is -128 in int8."""
_SOME_OF = frozenset(
    f"aten.{name}"
    for name in (
        "view _unsafe_view reshape permute transpose t expand squeeze unsqueeze slice select "
        "index_select max_pool2d_with_indices amax amin adaptive_max_pool2d upsample_nearest2d "
        "pixel_shuffle pixel_unshuffle flip clone repeat"
    ).split()
)
"""Operators whose elements are some of those of their first operand."""
_MEANS = frozenset(
    f"aten.{name}" for name in "mean avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d".split()
)
_ERROR = 2.0**-10
"""What rounding adds at most to a mean of up to 16,384 numbers, or to a function of one."""
_NORMAL = torch.finfo(torch.float32).tiny
_CURVES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "aten.exp": torch.exp,
    "aten.sigmoid": torch.sigmoid,
    "aten.tanh": torch.tanh,
    "aten.sqrt": torch.sqrt,
}
"""Functions that increase, and are rounded: their ends are those in float64, and a little more."""
_ONE_OF = frozenset({"aten.cat", "aten.stack", "aten.where", "aten.maximum", "aten.minimum"})
"""Operators whose elements are some of those of their operands."""
_MONOTONE = frozenset(f"aten.{name}" for name in "round floor ceil trunc clamp".split()) | {
    "aten.clamp_min",
    "aten.clamp_max",
}


class Range:
    """Ranges of the tensors of one graph."""

    def __init__(self) -> None:
        self._known: dict[fx.Node, tuple[float, float]] = {}

    def of(self, node: fx.Node) -> tuple[float, float]:
        """The smallest and the largest number that an element may be; +-inf if nothing is known.

        NaN is no number: it may occur in any range.
        """
        if node not in self._known:
            self._known[node] = _UNKNOWN  # a graph has no cycles, but deep recursion ends here
            self._known[node] = self._find(node)
        return self._known[node]

    def _find(self, node: fx.Node) -> tuple[float, float]:
        value = constant(node)
        if value is not None:
            bare = value.numel() == 0 or value.is_complex() or bool(value.isnan().any())
            return _UNKNOWN if bare else (float(value.min()), float(value.max()))
        dtype = _dtype(node)
        if dtype == torch.bool:
            return 0.0, 1.0
        name = base_name(node)
        low, high = _UNKNOWN
        if name in _FIXED:
            low, high = _FIXED[name]
        elif name in _NOT_NEGATIVE and _is_real(node):
            low = 0.0
        found = _UNKNOWN
        if name in _ONE_OF:
            found = self._of_any(node)
        elif node.args and isinstance(node.args[0], fx.Node):
            found = self._of_operands(name, node, node.args[0])
        return max(low, found[0]), min(high, found[1])

    def _of_any(self, node: fx.Node) -> tuple[float, float]:
        """From the smallest to the largest of several operands, the condition of a choice aside."""
        given = node.args[1:] if base_name(node) == "aten.where" else node.args
        operands = tree_leaves(given[0] if isinstance(given[0], (list, tuple)) else given)
        if not all(isinstance(each, fx.Node) for each in operands if each is not None):
            return _UNKNOWN  # a number
        ends = [self.of(each) for each in operands if isinstance(each, fx.Node)]
        known = min(low for low, _ in ends), max(high for _, high in ends)
        return _cast(known, _dtype(node))

    def _of_operands(self, name: str, node: fx.Node, source: fx.Node) -> tuple[float, float]:
        """The range of a call, from that of its first operand."""
        result = _UNKNOWN
        if node.target is operator.getitem:
            if base_name(source) in _SOME_OF and node.args[1] == 0:
                result = self.of(source)
        elif name in _SOME_OF:
            result = self.of(source)
        elif name in _MEANS:
            result = _of_mean(node, self.of(source))
        elif name == "aten.hardtanh" and not node.kwargs:
            given: tuple[Any, ...] = node.args[1:]
            low = given[0] if given else -1.0
            high = given[1] if len(given) > 1 else 1.0
            result = float(low), float(high)
        elif name in _MONOTONE:
            result = self._ends(node, source)
        elif name in _CURVES:
            result = _of_curve(_CURVES[name], self.of(source), _dtype(node))
        elif name in ("aten.neg", "aten.abs") and _is_real(node):
            low, high = self.of(source)
            result = -high, -low
            if name == "aten.abs":
                result = max(low, -high, 0.0), max(high, -low)
        elif name in ("aten.mul", "aten.add", "aten.sub", "aten.div"):
            if len(node.args) == 2 and not node.kwargs:  # no factor, no way to round a quotient
                result = self._arithmetic(name, node, source, node.args[1])
        elif name == "aten._to_copy":
            result = _cast(self.of(source), _dtype(node))
        return result

    def _ends(self, node: fx.Node, source: fx.Node) -> tuple[float, float]:
        """The values at both ends, for an operator that increases."""
        if any(isinstance(arg, fx.Node) for arg in (*node.args[1:], *node.kwargs.values())):
            return _UNKNOWN
        dtype = _dtype(source) if _is_real(source) else torch.float64
        ends = torch.tensor(self.of(source), dtype=dtype)
        found = node.target(ends, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return _cast((float(found[0]), float(found[1])), _dtype(node))

    def _arithmetic(self, name: str, node: fx.Node, left: Any, right: Any) -> tuple[float, float]:
        a, b = (
            self.of(each) if isinstance(each, fx.Node) else (float(each), float(each))
            for each in (left, right)
        )
        known = all(map(math.isfinite, (*a, *b)))
        if name == "aten.div":
            if not known or b[0] <= 0.0 <= b[1]:
                return _UNKNOWN
            ends = [x / y for x in a for y in b]
        elif name == "aten.mul":
            ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
        else:
            sign = 1.0 if name == "aten.add" else -1.0
            c = b if sign > 0 else b[::-1]
            ends = [a[0] + sign * c[0], a[1] + sign * c[1]]
        if any(map(math.isnan, ends)):
            return _UNKNOWN
        return _rounded((min(ends), max(ends)), _dtype(node))


def _dtype(node: fx.Node) -> torch.dtype | None:
    return node.meta["val"].dtype if is_tensor(node) else None


def _is_real(node: fx.Node) -> bool:
    dtype = _dtype(node)
    return dtype is not None and dtype.is_floating_point


def _of_curve(
    curve: Callable[[torch.Tensor], torch.Tensor],
    known: tuple[float, float],
    dtype: torch.dtype | None,
) -> tuple[float, float]:
    """Of a function that increases; libraries may round it one way or the other."""
    if dtype not in (torch.float32, torch.float64):
        return _UNKNOWN
    low, high = curve(torch.tensor(known, dtype=torch.float64)).tolist()
    if math.isnan(low):
        return _UNKNOWN
    low = 0.0 if 0.0 < low < _NORMAL else low  # it may be rounded to 0
    return _cast((_wider(low, down=True), _wider(high)), dtype)


def _of_mean(node: fx.Node, known: tuple[float, float]) -> tuple[float, float]:
    """Of a mean of some elements, and zeros of padding among them, or a sum with its divisor."""
    low, high = min(known[0], 0.0), max(known[1], 0.0)
    divisor = node.args[6] if base_name(node) == "aten.avg_pool2d" and len(node.args) > 6 else None
    if divisor is not None:
        window: Any = node.args[1]
        taken = math.prod(window) if len(window) == 2 else window[0] ** 2
        factor = taken / float(divisor)  # type: ignore[arg-type]
        low, high = sorted(0.0 if end == 0.0 else end * factor for end in (low, high))
    return _wider(low, down=True), _wider(high)


def _wider(end: float, *, down: bool = False) -> float:
    """An end for results that are rounded; of a power of two, and 0, they are exact."""
    exact = end == 0.0 or math.isinf(end) or abs(math.frexp(end)[0]) == 0.5
    more = abs(end) * _ERROR
    return end if exact else end - more if down else end + more


def _cast(known: tuple[float, float], dtype: torch.dtype | None) -> tuple[float, float]:
    """The range of numbers of another type: rounding them, or cutting them off, keeps order."""
    if dtype is None or dtype.is_complex or dtype == torch.bool:
        return _UNKNOWN
    if dtype.is_floating_point:
        low, high = torch.tensor(known, dtype=torch.float64).to(dtype).tolist()
        return low, high
    types = torch.iinfo(dtype)
    if not types.min <= known[0] <= known[1] <= types.max:
        return float(types.min), float(types.max)
    return float(math.trunc(known[0])), float(math.trunc(known[1]))


def _rounded(known: tuple[float, float], dtype: torch.dtype | None) -> tuple[float, float]:
    """The range of results in `dtype`, from ends in float64: one rounding up and down is added."""
    if dtype not in (torch.float32, torch.float64):
        exact = dtype is not None and not dtype.is_floating_point
        return _cast(known, dtype) if exact else _UNKNOWN
    low, high = torch.tensor(known, dtype=torch.float64).to(dtype)
    infinite = torch.tensor(math.inf, dtype=dtype)
    return (
        float(torch.nextafter(low, -infinite)) if known[0] else 0.0,
        float(torch.nextafter(high, infinite)) if known[1] else 0.0,
    )
