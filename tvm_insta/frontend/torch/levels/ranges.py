"""Between which numbers the elements of a tensor lie, as far as the operators say it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, constant, is_tensor

_UNKNOWN = (-math.inf, math.inf)
_FIXED = {
    "aten.relu": (0.0, math.inf),
    "aten.abs": (0.0, math.inf),
    "aten.sigmoid": (0.0, 1.0),
    "aten.hardsigmoid": (0.0, 1.0),
    "aten._softmax": (0.0, 1.0),
    "aten.tanh": (-1.0, 1.0),
    "aten.exp": (0.0, math.inf),
    "aten.sqrt": (0.0, math.inf),
    "aten.square": (0.0, math.inf),
    "aten.sign": (-1.0, 1.0),
}
_PASSED_ON = {
    f"aten.{name}"
    for name in (
        "view _unsafe_view reshape permute transpose t expand squeeze unsqueeze slice select "
        "index_select max_pool2d_with_indices amax amin adaptive_max_pool2d mean avg_pool2d "
        "adaptive_avg_pool2d _adaptive_avg_pool2d upsample_nearest2d pixel_shuffle pixel_unshuffle "
        "flip clone repeat"
    ).split()
}
_MONOTONE = {f"aten.{name}" for name in "round floor ceil trunc clamp clamp_min clamp_max".split()}


class Range:
    """Ranges of the tensors of one graph.

    A padded average or maximum is no larger than what it is taken of, or it is 0.
    """

    def __init__(self) -> None:
        self._known: dict[fx.Node, tuple[float, float]] = {}

    def of(self, node: fx.Node) -> tuple[float, float]:
        """The smallest and the largest number that an element may be; +-inf if nothing is known."""
        if node not in self._known:
            self._known[node] = _UNKNOWN  # a graph has no cycles, but deep recursion ends here
            self._known[node] = self._find(node)
        return self._known[node]

    def _find(self, node: fx.Node) -> tuple[float, float]:
        value = constant(node)
        if value is not None:
            bare = value.numel() == 0 or value.is_complex()
            return _UNKNOWN if bare else (float(value.min()), float(value.max()))
        if is_tensor(node) and node.meta["val"].dtype == torch.bool:
            return 0.0, 1.0
        name = base_name(node)
        if name in _FIXED:
            return _FIXED[name]
        if not node.args or not isinstance(node.args[0], fx.Node):
            return _UNKNOWN
        return self._of_operands(name, node, node.args[0])

    def _of_operands(self, name: str, node: fx.Node, source: fx.Node) -> tuple[float, float]:
        """The range of a call, from that of its first operand."""
        result = _UNKNOWN
        if str(node.target) == "<built-in function getitem>":
            if base_name(source) in _PASSED_ON and node.args[1] == 0:
                result = self.of(source)
        elif name in _PASSED_ON:
            result = self._widened(name, self.of(source))
        elif name == "aten.hardtanh" and not node.kwargs:
            given: tuple[Any, ...] = node.args[1:]
            low = given[0] if given else -1.0
            high = given[1] if len(given) > 1 else 1.0
            result = float(low), float(high)
        elif name in _MONOTONE:
            result = self._ends(node)
        elif name in ("aten.mul", "aten.add", "aten.sub", "aten.div") and not node.kwargs:
            result = self._arithmetic(name, source, node.args[1])
        elif name == "aten._to_copy":
            result = self.of(source)
        return result

    @staticmethod
    def _widened(name: str, known: tuple[float, float]) -> tuple[float, float]:
        padded = "pool" in name or name == "aten.mean"
        return (min(known[0], 0.0), max(known[1], 0.0)) if padded else known

    def _ends(self, node: fx.Node) -> tuple[float, float]:
        """The values at both ends, for an operator that increases."""
        if any(isinstance(arg, fx.Node) for arg in node.args[1:]):
            return _UNKNOWN
        low, high = self.of(node.args[0])  # type: ignore[arg-type]
        ends = torch.tensor([low, high], dtype=torch.float32)
        found = node.target(ends, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return float(found[0]), float(found[1])

    def _arithmetic(self, name: str, left: Any, right: Any) -> tuple[float, float]:
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
        low, high = min(ends), max(ends)
        # float64 ends of float32 results: one rounding up and down is allowed for.
        return (
            float(torch.nextafter(torch.tensor(low), torch.tensor(-torch.inf))) if low else 0.0,
            float(torch.nextafter(torch.tensor(high), torch.tensor(torch.inf))) if high else 0.0,
        )
