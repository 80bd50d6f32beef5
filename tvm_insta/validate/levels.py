"""Whether rounding explains levels that are not PyTorch's function of the artefact's activations.

Thresholds may depend on the instance, and both sides round them differently. So the activations
are moved, each up or down by chance, and whatever PyTorch's own function then gives is allowed.
So are thresholds that are computed beside the activations, as those of ``x[1:] > x[:-1]``, of which
PyTorch has its own rounding. No threshold of the compiler is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import fx

from tvm_insta.validate.graph import Graph, Values
from tvm_insta.validate.rounding import ROUNDING, noise, rms, rounding_of

SHARE = 1e-3
"""The largest share of elements that may lie within the distance limit of a threshold: of a density
of 1 per rms, 1e-4 does. Elements that are 0 on both sides are many more, and are never excused."""

FEW = 3
"""Elements, where a thousandth is less than that."""

_PARTS = (1 / 16, 1 / 4, 1.0)  # of the limit: the smallest that explains all is told
_SEEDS = 3
_NOISY = 12
"""Pairs of runs with noise, at most. ``x > x.mean()`` of an equal image needs x and its mean to
move apart, which half of the pairs do: a 4096th of the elements is left, less than `SHARE`."""


@dataclass(frozen=True)
class Explained:
    """How many elements nothing explains, and how far activations had to be moved, in rms."""

    unexplained: int
    distance: float


def explain(
    graph: Graph,
    nodes: Sequence[fx.Node],
    node: fx.Node,
    known: Values,
    roots: Mapping[fx.Node, Any],
    levels: torch.Tensor,
    tolerance: float,
    limit: float,
    cut: Sequence[fx.Node] = (),
) -> Explained:
    """Judge levels that differ.

    Args:
        graph: the reference.
        nodes: between the roots and `node`.
        node: the level tensor.
        known: values of other nodes.
        roots: values of the roots, common to both sides.
        levels: the artefact's.
        tolerance: of a level.
        limit: how far the roots may be moved, in units of their rms; 0 for not at all.
        cut: where both sides have the same values.
    """
    low: torch.Tensor
    high: torch.Tensor
    low = high = graph.evaluate(nodes, known, roots)[node].double()

    def outside() -> torch.Tensor:
        inside: torch.Tensor = (levels >= low - tolerance) & (levels <= high + tolerance)
        return ~inside

    def take(value: torch.Tensor) -> None:
        nonlocal low, high
        low, high = torch.minimum(low, value.double()), torch.maximum(high, value.double())

    wrong = outside()
    if limit == 0.0:
        return Explained(int(wrong.sum()), 0.0)
    beside = _beside(graph, nodes, roots, known)
    errors = rounding_of(graph, known, graph.slice_of(beside, cut)) if beside else {}
    allowed = {each: ROUNDING * errors.get(each, 0.0) for each in beside}
    for seed in range(_NOISY):  # relative noise leaves exact zeros where they are: no share
        for sign in (1.0, -1.0):
            change = noise(seed, sign, allowed)
            moved = {root: change(root, value) for root, value in {**roots, **beside}.items()}
            take(graph.evaluate(nodes, known, moved, change)[node])
        if not bool(outside().any()):
            return Explained(0, 0.0)
    wrong = outside()
    for part in _PARTS:
        if not bool(wrong.any()):
            return Explained(0, 0.0)
        if int(wrong.sum()) > max(FEW, SHARE * wrong.numel()):
            break
        for moved in _moves(roots, part * limit):
            take(graph.evaluate(nodes, known, moved)[node])
        if not bool(outside().any()):
            return Explained(0, part * limit)
    return Explained(int(outside().sum()), limit)


def _beside(
    graph: Graph, nodes: Sequence[fx.Node], roots: Mapping[fx.Node, Any], known: Values
) -> Values:
    """What nodes read of computed numbers that do not come from the roots."""
    inside = {*nodes, *roots, *graph.constant, *graph.inputs}
    found = {
        source: known[source]
        for each in nodes
        for source in each.all_input_nodes
        if source not in inside
    }
    return {
        source: value
        for source, value in found.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def _moves(roots: Mapping[fx.Node, Any], part: float) -> list[dict[fx.Node, Any]]:
    """Roots moved by `part` of their rms: all alike in every combination, and each by chance."""
    sizes = {
        root: part * rms(value)
        for root, value in roots.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    found = []
    for signs in product((1.0, -1.0), repeat=min(len(sizes), 3)):
        by = dict(zip(sizes, signs, strict=False))
        found.append(
            {r: v + sizes[r] * by.get(r, 1.0) if r in sizes else v for r, v in roots.items()}
        )
    generator = torch.Generator().manual_seed(0)
    for _ in range(_SEEDS):
        chosen = {
            root: torch.randint(0, 2, roots[root].shape, generator=generator) * 2 - 1
            for root in sizes
        }
        for sign in (1.0, -1.0):
            found.append(
                {r: v + sizes[r] * sign * chosen[r] if r in sizes else v for r, v in roots.items()}
            )
    return found
