"""Chains of element-wise operators that are a staircase of one tensor.

A quantiser (``round(clamp(x, 0, 1) * 3) / 3``, ``sign``, ``(x > 0).float() * 2 - 1``, ...) is a
function of one tensor with few values. Which operators it is made of does not matter: PyTorch
itself evaluates the chain, and bisection over ordered float32 finds the smallest number of each
value. The thresholds are therefore exact for whatever rounding the chain has.

What makes a chain a staircase: every operator is rounded once (see `ROUNDED_ONCE`), the function
has at most 16 values, and it is monotone in every channel and in the same direction. The
reconstruction is compared with the chain on thousands of numbers. NaN has the level that the chain
gives it, or none where the chain passes it on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import base_name, constant, shape_of
from tvm_insta.frontend.torch.levels.elementwise import (
    ROUNDED_ONCE,
    boundaries,
    evaluate,
    is_elementwise,
    same_shape,
    tensor_operands,
    variable_operands,
)
from tvm_insta.frontend.torch.levels.lattice import Lattices
from tvm_insta.frontend.torch.levels.ordered import (
    LARGEST,
    distinct,
    first_reaching,
    from_order,
    to_order,
)
from tvm_insta.frontend.torch.levels.ranges import Range
from tvm_insta.frontend.torch.levels.steps import MOST, Steps

_LIMITED = ((-65536.0, 65536.0), (-4096.0, 4096.0))
"""Where a chain is no staircase over all of float32, these ranges are tried: PACT's ``(|x| - |x -
a| + a) / 2`` loses a in the rounding of numbers beyond 2**24 * a, which no activation reaches. That
it is only rounding, float64 tells: ``round(x / 1000)`` has few values there, too, but goes on."""

_FAR = 2.0**30
"""How far beyond a limited range a chain is evaluated in float64, which rounds at a 2**29th of
what float32 rounds at."""

_LONGEST = 48
"""Operators of the longest chain that is followed."""


@dataclass(frozen=True)
class Chain:
    """Element-wise operators from one tensor to another.

    Attributes:
        root: the only variable tensor that enters.
        nodes: the calls in order of execution; the last one gives the result.
        private: whether the nodes but for the last are read inside the chain only.
    """

    root: fx.Node
    nodes: tuple[fx.Node, ...]
    private: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the chain by PyTorch; x broadcasts with the constants of the chain.

        Returns:
            float64 if x is, but for what the chain itself casts; else float32, of integers, too.
        """
        known = {self.root: x}
        for node in self.nodes:
            known[node] = evaluate(node, known)
        wide = x.dtype == torch.float64
        result = known[self.nodes[-1]].to(torch.float64 if wide else torch.float32)
        return torch.broadcast_tensors(result, x)[0]  # type: ignore[no-any-return, no-untyped-call]

    def constants_shape(self) -> list[int]:
        """The shape of one image's constants: 1 where no constant extends over a dimension."""
        rank = len(shape_of(self.root))
        shape = [1] * rank
        for node in self.nodes:
            for operand in tensor_operands(node):
                value = constant(operand)
                if value is None or operand is boundaries(node):
                    continue
                own = [1] * (rank - value.ndim) + list(value.shape)
                shape = [max(a, b) for a, b in zip(shape, own, strict=True)]
        return shape


def chains(node: fx.Node) -> Iterator[Chain]:
    """All chains that end in a node, the shortest first; none in one number of the whole batch."""
    if not shape_of(node):  # levels are those of an image
        return
    frontier, inside = {node}, set[fx.Node]()
    while len(inside) < _LONGEST:
        last = max(frontier)  # in the order of the graph
        whole = len(shape_of(last)) == len(shape_of(node))  # constants have no dimension more
        if frontier == {last} and last is not node and whole:
            nodes = tuple(sorted(inside))
            private = all(set(each.users) <= inside for each in nodes if each is not node)
            yield Chain(last, nodes, private)
        if base_name(last) not in ROUNDED_ONCE or not is_elementwise(last):
            return
        if not same_shape(last, node):
            return
        frontier.remove(last)
        inside.add(last)
        frontier.update(variable_operands(last))
        if not frontier:
            return


def staircase(node: fx.Node, ranges: Range, lattices: Lattices) -> Steps | None:
    """The staircase that a node is, of the nearest tensor for which it is one; None if of none.

    The compared tensor is then moved up the chain as long as nobody else reads what is passed:
    ``x + c >= 0`` compares x with -c, exactly, since a rounded sum has the sign of the true one.
    """
    found: Steps | None = None
    for chain in chains(node):
        if chain.root.meta["val"].dtype != torch.float32:
            continue
        nonzero = lattices.never_zero(chain.root)
        steps = _steps(chain, *ranges.of(chain.root), nonzero=nonzero)
        for limits in _LIMITED:
            if steps is None:
                steps = _steps(chain, *limits, nonzero=nonzero)
                steps = steps if steps is not None and _stays(chain, steps, *limits) else None
        if steps is not None and nonzero:
            steps = _without_zero(steps)
        steps = None if steps is None else steps.without_subnormals()
        if found is None:
            found = steps
        elif steps is None or not chain.private:
            break
        elif (steps.values, steps.nan) != (found.values, found.nan):
            break
        else:
            found = steps
        if found is not None and not _worth_moving(chain.root):
            break
    return found


def _worth_moving(node: fx.Node) -> bool:
    """Whether comparing an operand in place of a node's value saves an offset."""
    if base_name(node) not in ("aten.add", "aten.sub") or not is_elementwise(node):
        return False
    return len(node.users) == 1 and len(variable_operands(node)) == 1


def undefined_at_zero(node: fx.Node) -> bool:
    """Whether a node would be a staircase if it were not NaN where the compared tensor is 0.

    ``x / |x|`` is.
    """
    for chain in chains(node):
        shape = chain.constants_shape()
        if shape[0] != 1 or chain.root.meta["val"].dtype != torch.float32:
            continue
        if bool(torch.isnan(chain(torch.zeros(shape))).any()):
            return _steps(chain, *_LIMITED[0], nonzero=True) is not None
    return False


def _steps(chain: Chain, low: float, high: float, *, nonzero: bool = False) -> Steps | None:
    shape = chain.constants_shape()
    if shape[0] != 1:
        return None
    ends = [torch.full(shape, end) for end in (max(low, -LARGEST), min(high, LARGEST))]
    values = _values(chain, *ends)
    if values is None or len(values) < 2:
        return None
    rising = bool((chain(ends[0]) <= chain(ends[1])).all())
    ordered = values if rising else values[::-1]
    thresholds = tuple(first_reaching(chain, value, *ends, rising=rising) for value in ordered[1:])
    of_nan = distinct(chain(torch.full(shape, torch.nan))).tolist()
    if len(of_nan) > 1 and any(value in values for value in of_nan):  # channels differ
        return None
    nan = ordered.index(of_nan[0]) if of_nan[0] in values else None
    steps = Steps(chain.root, "ge", tuple(map(_least_shape, thresholds)), tuple(ordered), nan)
    samples = _samples(steps, low, high)
    return steps if _agrees(chain, steps, samples[samples != 0] if nonzero else samples) else None


def _without_zero(steps: Steps) -> Steps:
    """Drop the level that only a 0 has: sign(0), where x is never 0."""
    above = torch.nextafter(torch.zeros(()), torch.ones(()))
    for at, (low, high) in enumerate(itertools.pairwise(steps.thresholds)):
        if isinstance(low, torch.Tensor) and isinstance(high, torch.Tensor):
            if bool((low == 0).all()) and bool((high == above).all()):
                return replace(
                    steps,
                    thresholds=(*steps.thresholds[: at + 1], *steps.thresholds[at + 2 :]),
                    values=(*steps.values[: at + 1], *steps.values[at + 2 :]),
                    nan=None if steps.nan is None else steps.nan - (steps.nan > at),
                )
    return steps


def _values(chain: Chain, low: torch.Tensor, high: torch.Tensor) -> list[float] | None:
    """The values that a monotone chain takes, ascending; None where they are more than `MOST`."""
    first, last = chain(low), chain(high)
    if not bool(torch.isfinite(first).all() and torch.isfinite(last).all()):
        return None
    if bool((first < last).any()) and bool((first > last).any()):
        return None
    rising = bool((first <= last).all())
    some = _of_every_size(float(low.flatten()[0]), float(high.flatten()[0]), 4 * MOST)
    some = some.reshape(-1, *[1] * (low.dim() - 1))
    if len(distinct(chain(some))) > MOST:  # told at once, for most of the chains
        return None
    found = {float(value) for value in distinct(torch.cat([first.flatten(), last.flatten()]))}
    at, current = low, first
    while bool((current != last).any()):
        if len(found) > MOST:
            return None
        at = _next_change(chain, current, at, high, rising=rising)
        current = torch.where(torch.isinf(at), last, chain(torch.where(torch.isinf(at), high, at)))
        at = torch.where(torch.isinf(at), high, at)
        if not bool(torch.isfinite(current).all()):
            return None
        found |= {float(value) for value in distinct(current)}
    return sorted(found) if len(found) <= MOST else None


def _next_change(
    chain: Chain, current: torch.Tensor, low: torch.Tensor, high: torch.Tensor, *, rising: bool
) -> torch.Tensor:
    """The smallest x above ``low`` at which the chain leaves its ``current`` value."""

    def left(x: torch.Tensor) -> torch.Tensor:
        value = chain(x)
        moved = value > current if rising else value < current
        return moved.to(torch.float32)

    return first_reaching(left, 1.0, low, high, rising=True)


def _agrees(chain: Chain, steps: Steps, samples: torch.Tensor) -> bool:
    """Compare the staircase with the chain on numbers of every size and about its thresholds."""
    shape = chain.constants_shape()
    x = samples.reshape(-1, *[1] * (len(shape) - 1)).expand(-1, *shape[1:]).contiguous()
    code = torch.zeros(1, dtype=torch.int64)
    for threshold in steps.thresholds:
        assert isinstance(threshold, torch.Tensor)
        code = code + (x >= threshold).to(torch.int64)
    table = torch.tensor(steps.values, dtype=torch.float32)
    return torch.equal(table[code].expand(chain(x).shape), chain(x))


def _stays(chain: Chain, steps: Steps, low: float, high: float) -> bool:
    """Whether a chain keeps its first and last value beyond a range, but for float32's rounding."""
    shape = chain.constants_shape()
    far = _of_every_size(high, _FAR, 256).double()
    x = torch.cat([far, -far]).reshape(-1, *[1] * (len(shape) - 1))
    x = x.expand(-1, *shape[1:]).contiguous()
    ends = chain(torch.tensor([high, low]).reshape(-1, *[1] * (x.dim() - 1)).expand(2, *shape[1:]))
    kept = torch.where(x > 0, ends[:1], ends[1:]).double()
    gap = min(after - before for before, after in itertools.pairwise(steps.values))
    return bool(((chain(x) - kept).abs() <= gap / 8).all())


def _samples(steps: Steps, low: float, high: float) -> torch.Tensor:
    finite = torch.cat([t.flatten() for t in steps.thresholds if isinstance(t, torch.Tensor)])
    # Where a channel has one value only, its thresholds are the largest numbers: none is near.
    finite = distinct(finite[finite.abs() < LARGEST])[:256]
    low_end, high_end = max(low, -LARGEST), min(high, LARGEST)
    ends, sizes = torch.tensor([low_end, high_end]), _of_every_size(low_end, high_end, 2048)
    about = [from_order(to_order(finite) + offset) for offset in (-2, -1, 0, 1, 2)]
    linear = [torch.zeros(1)]
    if finite.numel():
        spread = float(finite.max() - finite.min()) + float(finite.abs().max()) + 1e-3
        linear.append(
            torch.linspace(float(finite.min()) - spread, float(finite.max()) + spread, 2048)
        )
    every = torch.cat([ends, sizes, *about, *linear])
    return distinct(every[(every >= low) & (every <= high)])


def _of_every_size(low: float, high: float, count: int) -> torch.Tensor:
    """Numbers evenly spread over all float32 numbers from ``low`` to ``high``, ``[count]``."""
    first, last = to_order(torch.tensor([low, high])).tolist()
    return from_order(torch.linspace(first, last, count, dtype=torch.float64).to(torch.int64))


def _least_shape(threshold: torch.Tensor) -> torch.Tensor:
    """One number where all are equal."""
    flat = threshold.flatten()
    return flat[0].clone() if bool((flat == flat[0]).all()) else threshold
