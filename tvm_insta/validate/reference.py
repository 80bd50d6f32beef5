"""The PyTorch side of validation: a graph that tells of its comparisons and takes their bits.

Free, it computes what the module computes. Given the bits that an artefact took, it computes what
PyTorch would have computed from there: so every activation of the artefact can be compared with
PyTorch's for the same bits, and a flipped bit cannot hide behind those it causes later.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

_COMPARE = {"ge": torch.ge, "gt": torch.gt, "le": torch.le, "lt": torch.lt}


@dataclass(frozen=True)
class Site:
    """One binarisation in one run.

    Attributes:
        name: of the graph node.
        x: what was compared, ``[N, C, H, W]`` or ``[N, C]`` float32.
        threshold: what it was compared with; broadcasts to ``x``.
        bits: True where PyTorch takes the higher of the two values, shape of ``x``.
    """

    name: str
    x: torch.Tensor
    threshold: torch.Tensor
    bits: torch.Tensor


class Reference(fx.Interpreter):
    """Runs a graph from `frontend.trace_and_fold`.

    Attributes:
        sites: the binarisations of the last run, in order.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.sites: list[Site] = []
        self._forced: list[torch.Tensor] | None = None
        self._nodes = {node for node in graph.graph.nodes if _is_site(node)}

    def evaluate(
        self, inputs: Sequence[torch.Tensor], forced: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Run the network.

        Args:
            inputs: one tensor per input, batch first.
            forced: the bits to go on with, one bool tensor per site; None for PyTorch's own.

        Returns:
            The network's output.
        """
        self.sites = []
        self._forced = None if forced is None else list(forced)
        with torch.no_grad():
            output = self.run(*inputs)
        if isinstance(output, (tuple, list)):
            output = output[0]
        assert isinstance(output, torch.Tensor)
        return output

    def run_node(self, n: fx.Node) -> Any:
        """Execute a node; at a binarisation record, and go on with the forced bits."""
        result = super().run_node(n)
        if n not in self._nodes:
            return result
        args: list[Any] = [self.env[arg] if isinstance(arg, fx.Node) else arg for arg in n.args]
        sign = _short_name(n) == "sign"
        x = args[0]
        threshold = torch.as_tensor(0.0 if sign else args[1], dtype=torch.float32)
        if x.numel() < threshold.numel():  # the compiler compares the larger with the smaller
            x, threshold = threshold, x
        high_when_true = sign or _high_when_true(n)
        holds = (x >= threshold) if sign else result
        self.sites.append(Site(n.name, x, threshold, holds if high_when_true else ~holds))
        if self._forced is not None:
            bits = self._forced[len(self.sites) - 1].reshape(holds.shape)
            holds = bits if high_when_true else ~bits
        return torch.where(holds, 1.0, -1.0) if sign else holds


def _is_site(node: fx.Node) -> bool:
    name = _short_name(node)
    if name == "sign":
        return True
    if name not in _COMPARE:
        return False
    readers = [user for user in node.users if _short_name(user) != "_assert_tensor_metadata"]
    return bool(readers) and all(
        (_short_name(user) == "where" and None not in map(_number, user.args[1:]))
        or _short_name(user) in ("to", "_to_copy", "type_as")
        for user in readers
    )


def _high_when_true(node: fx.Node) -> bool:
    """Whether the comparison chooses the higher of two values (a cast to float gives 1 and 0)."""
    for user in node.users:
        if _short_name(user) == "where":
            high, low = map(_number, user.args[1:])
            return high is not None and low is not None and high > low
    return True


def _number(arg: Any) -> float | None:
    """The number that an operand of ``where`` always is, None for anything else."""
    if isinstance(arg, (int, float)):
        return float(arg)
    if isinstance(arg, fx.Node) and arg.op == "get_attr":
        value = operator.attrgetter(str(arg.target))(arg.graph.owning_module)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            return float(value)
    return None


def _short_name(node: fx.Node) -> str:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return ""
    return str(node.target._schema.name).split("::")[-1]
