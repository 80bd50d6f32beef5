"""How far float rounding itself moves a value of the reference, and whether that excuses ours.

Long sums, cancellation and deep chains move a float32 result by more than any fixed tolerance.
So where an artefact differs by more than that, PyTorch is asked twice more, from the values that
both sides have in common: in float64, which tells how large float32's rounding is; and with noise
of that size on every operator, which shows comparisons that rounding may turn round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import fx

from tvm_insta.frontend import HALVES
from tvm_insta.validate.graph import Graph, Values

ROUNDING = 8.0
"""Times the difference of float32 and float64: both sides round, each in an order of its own, and
the largest of many errors is some times the one that PyTorch happens to make."""

CAP = 1e-3
"""Of the rms: no more is taken for rounding. A wrong integer of a layer with 4608 products moves
its result by 3e-2 of the rms."""

_ULPS = 2.0**-22  # relative noise on every operator: two units in the last place of float32
_PAIRS = 3  # runs with noise and with its negative: each element moves both ways in each pair


class Outcome(Enum):
    """What became of a difference."""

    EXCUSED = "within rounding"
    UNDECIDED = "a comparison that rounding turns round lies before it"
    WRONG = "more than rounding"


@dataclass(frozen=True)
class Judgement:
    """Of one tensor: the outcome, and the tolerance that it needed."""

    outcome: Outcome
    allowed: float


def rms(value: torch.Tensor) -> float:
    """Root mean square of the finite elements, at least 1e-30."""
    wide = value.double()
    mean = float(wide.square().mean()) if wide.numel() else 0.0
    if math.isfinite(mean):
        return max(math.sqrt(mean), 1e-30)
    finite = wide[torch.isfinite(wide)]
    return max(float(finite.square().mean().sqrt()) if finite.numel() else 0.0, 1e-30)


def apart(ours: torch.Tensor, theirs: torch.Tensor, allowed: float) -> torch.Tensor:
    """Where two tensors differ by more than `allowed`; NaN equals NaN, infinity itself."""
    one, other = ours.double(), theirs.double()
    far = ~((one - other).abs() <= allowed)
    if bool(far.any()):
        far &= ~((one == other) | (torch.isnan(one) & torch.isnan(other)))
    return far


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference of finite elements; infinite where NaN or infinity is on one side."""
    one, other = ours.double(), theirs.double()
    largest = float((one - other).abs().max()) if one.numel() else 0.0
    if math.isfinite(largest):
        return largest
    same = (one == other) | (torch.isnan(one) & torch.isnan(other))
    if bool(same.all()):
        return 0.0
    difference = (one - other).abs()[~same]
    return float(torch.nan_to_num(difference, nan=float("inf")).max())


def judge(
    graph: Graph,
    values: Values,
    target: fx.Node,
    cut: Sequence[fx.Node],
    ours: torch.Tensor,
    allowed: float,
    pick: Callable[[Any], torch.Tensor],
) -> Judgement:
    """Whether rounding excuses that `ours` is not what PyTorch computed for `target`.

    Args:
        graph: the reference.
        values: of every node so far, those of `cut` common to both sides.
        target: the node in question.
        cut: where both sides have the same values.
        ours: the artefact's value.
        allowed: the tolerance that was exceeded.
        pick: the tensor in question among the values of `target`.
    """
    theirs = pick(values[target])
    nodes = graph.slice(target, cut)
    floating = theirs.is_floating_point()
    errors = rounding_of(graph, values, nodes)
    if floating:
        scale = rms(theirs)
        allowed += min(ROUNDING * errors.get(target, 0.0), CAP * scale)
        if not bool(apart(ours, theirs, allowed).any()):
            return Judgement(Outcome.EXCUSED, allowed)
    runs = [theirs, *_noisy(graph, values, nodes, errors, target, pick)]
    if floating:
        low = torch.stack(runs).amin(0)
        high = torch.stack(runs).amax(0)
        explained = (ours >= low - allowed) & (ours <= high + allowed)
        explained |= torch.isnan(ours) & torch.isnan(theirs) | (ours == theirs)
    else:
        explained = torch.stack([run == ours for run in runs]).any(0)
    if bool(explained.all()):
        return Judgement(Outcome.EXCUSED, allowed)
    jump = allowed if floating else 0.0
    jumps = any(bool(apart(run, theirs, 20 * jump).any()) for run in runs[1:])
    return Judgement(Outcome.UNDECIDED if jumps else Outcome.WRONG, allowed)


def rounding_of(graph: Graph, values: Values, nodes: Sequence[fx.Node]) -> dict[fx.Node, float]:
    """For each float node the largest difference of float32 and float64, at most `CAP` rms."""
    errors: dict[fx.Node, float] = {}
    try:
        wide = graph.evaluate(nodes, values, {}, lambda _, value: _widen(value), _widen)
    except (RuntimeError, TypeError):  # an operator that takes float32 alone: nothing is learned
        return errors
    for node in nodes:
        value, other = values[node], wide[node]
        if node.op == "output":
            pairs = list(zip(value, other, strict=True))
        else:
            pairs = [(value, other)]
        for one, two in pairs:
            if isinstance(one, torch.Tensor) and one.is_floating_point() and one.numel():
                difference = torch.nan_to_num((one.double() - two).abs(), nan=0.0, posinf=0.0)
                found = min(float(difference.max()), CAP * rms(one))
                errors[node] = max(errors.get(node, 0.0), found)
    return errors


def _widen(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        return value.double()
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_widen(item) for item in value)
    return value


def _noisy(
    graph: Graph,
    values: Values,
    nodes: Sequence[fx.Node],
    errors: dict[fx.Node, float],
    target: fx.Node,
    pick: Callable[[Any], torch.Tensor],
) -> list[torch.Tensor]:
    found = []
    for seed in range(_PAIRS):
        for sign in (1.0, -1.0):
            add = noise(seed, sign, errors)
            found.append(pick(graph.evaluate(nodes, values, {}, add)[target]))
    return found


def noise(
    seed: int, sign: float, errors: dict[fx.Node, float], ulps: float = _ULPS
) -> Callable[[fx.Node, Any], Any]:
    """A `graph.Change` that moves every float by rounding, each element up or down by chance."""
    generator = torch.Generator().manual_seed(seed)

    def change(node: fx.Node, value: Any) -> Any:
        if node.op != "call_function" or not isinstance(value, torch.Tensor):
            return value
        if not value.is_floating_point():
            return value
        chosen = torch.randint(0, 2, value.shape, generator=generator).to(value.dtype) * 2 - 1
        # In half precision their last place: less would be rounded away.
        least = max(ulps, torch.finfo(value.dtype).eps if value.dtype in HALVES else 0.0)
        size = value.abs() * least + errors.get(node, 0.0)
        return value + sign * chosen * torch.nan_to_num(size, nan=0.0, posinf=0.0)

    return change
