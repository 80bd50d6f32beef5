"""What rounding to half precision may change.

PyTorch's operators of half precision compute in float32 and round; so does the artefact. Both add
in an order of their own, and where the float32 sums lie on two sides of the middle between two
numbers of the type, the results are neighbours. That befalls few elements, by a whole last place
each. So PyTorch computes a second time with few elements of each result moved to a neighbour, and
what that changes is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend import HALVES, types_of
from tvm_insta.validate.graph import Change, Graph, Values, is_move
from tvm_insta.validate.rounding import rms

_MOVED = 1 / 128
"""Of the elements of a result. In PyTorch 2.13 0.2 % of a float16 convolution's are not the rounded
float32 result, less of others. Numbers cut off in place of rounded, or not rounded at all, are 0.6
and 0.3 of a last place off, in the mean; a 128th of the elements moved by one place 0.1."""

_SEEDS = 4


def half_nodes(graph: Graph) -> set[fx.Node]:
    """Nodes whose result is rounded to half precision, and depends on the input."""
    return {
        node
        for node in graph.nodes
        if node.op == "call_function" and node not in graph.constant and _rounds(node)
    }


def _rounds(node: fx.Node) -> bool:
    if not any(dtype in HALVES for dtype in types_of(node)):
        return False
    sources = [dtype for source in node.all_input_nodes for dtype in types_of(source)]
    return not (is_move(node) and all(dtype in HALVES for dtype in sources))


def moves(halves: set[fx.Node]) -> list[Change]:
    """Several `graph.Change`s that each move some elements of each rounded result."""
    return [_move(halves, seed) for seed in range(_SEEDS)]


def _move(halves: set[fx.Node], seed: int) -> Change:
    generator = torch.Generator().manual_seed(seed)

    def moved(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(moved(each) for each in value)
        if not isinstance(value, torch.Tensor) or value.dtype not in HALVES:
            return value
        chosen = torch.rand(value.shape, generator=generator)
        by = (chosen < _MOVED / 2).float() - (chosen > 1 - _MOVED / 2).float()
        return (value.float() * (1 + by * torch.finfo(value.dtype).eps)).to(value.dtype)

    return lambda node, value: moved(value) if node in halves else value


def allowed_rms(
    graph: Graph,
    values: Values,
    target: fx.Node,
    nodes: Sequence[fx.Node],
    halves: set[fx.Node],
    pick: Callable[[Any], torch.Tensor],
) -> float:
    """How far, as a root mean square, a value may be from PyTorch's.

    Args:
        graph: the reference.
        values: of every node so far.
        target: the node in question.
        nodes: what computes it from values that are common to both sides.
        halves: from `half_nodes`.
        pick: the tensor in question among the values of `target`.
    """
    theirs = pick(values[target]).double()
    found = 0.0
    for change in moves(halves):
        changed = pick(graph.evaluate(nodes, values, {}, change)[target])
        found = max(found, _size(changed.double() - theirs))
    # Of few elements none may be moved: one of them may be, by the last place of the largest.
    eps = max(
        torch.finfo(dtype).eps for node in halves & set(nodes) for dtype in types_of(node)
        if dtype in HALVES
    )  # fmt: skip
    largest = float(torch.nan_to_num(theirs, 0.0, 0.0, 0.0).abs().max()) if theirs.numel() else 0.0
    return found + float(eps) * largest / math.sqrt(max(theirs.numel(), 1))


def off_by(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The root mean square of a difference; infinite where NaN or infinity is on one side only."""
    one, other = ours.double(), theirs.double()
    same = (one == other) | (torch.isnan(one) & torch.isnan(other))
    return _size(torch.where(same, 0.0, one - other))


def _size(difference: torch.Tensor) -> float:
    if not bool(torch.isfinite(difference).all()):
        return float("inf")
    return rms(difference)
