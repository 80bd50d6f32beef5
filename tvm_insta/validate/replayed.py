"""The levels that a kernel packed, judged as PyTorch's function of what it compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tvm_insta.runtime.manifest import Binarisation
from tvm_insta.validate.findings import UNDECIDED, UNDECIDED_FEW, Findings, SiteFindings
from tvm_insta.validate.graph import Graph, Values, place
from tvm_insta.validate.half import moves
from tvm_insta.validate.levels import FEW, SHARE, Explained, explain
from tvm_insta.validate.narrow import TIMES, change_of
from tvm_insta.validate.packed import Packed
from tvm_insta.validate.rounding import apart, rms

_LEVEL = 1e-6  # relative: a straight-through sum (a - b) + b leaves rounding behind
_EPSILON = 2.0**-22


@dataclass
class Pack:
    """A binarisation whose nodes are known."""

    pack: Binarisation
    packed: Packed
    found: SiteFindings
    result: fx.Node
    compared: fx.Node | None
    roots: list[fx.Node]


class Replayed:
    """What is known of one image so far, and the judgement of its levels.

    Attributes:
        values: of every node so far, the artefact's where a kernel compares or packs them.
        free: PyTorch's values of nodes that were replaced by the artefact's.
        cut: nodes whose values are the artefact's.
        levels: binarisations and what the artefact packed, in the order of the graph.
        undecided: why what follows cannot be judged on this image, "" while it can.
    """

    def __init__(
        self,
        graph: Graph,
        findings: Findings,
        narrow: Mapping[fx.Node, str],
        halves: set[fx.Node],
        *,
        calibrated: bool,
    ) -> None:
        self.graph = graph
        self.findings = findings
        self.distance_limit = findings.distance_limit
        self.narrow = narrow
        self.halves = halves
        self.calibrated = calibrated
        self.values: Values = {}
        self.free: Values = {}  # PyTorch's values of nodes that were replaced by the artefact's
        self.cut: list[fx.Node] = []
        self.levels: list[tuple[Pack, torch.Tensor]] = []
        self.undecided = ""

    def judge_levels(self, node: fx.Node, each: Pack, levels: torch.Tensor) -> None:
        """Compare the levels that a kernel packed with PyTorch's function of its roots."""
        site, found, graph = each.pack.site, each.found, self.graph
        assert site is not None
        compared = compare(graph, self.values, each, levels)
        if compared is None:
            self.findings.leave_out(
                f"{found.name}: it does not depend on {', '.join(site.roots) or 'any named tensor'}"
            )
            return
        nodes, roots, theirs = compared.nodes, compared.roots, compared.theirs
        if bool(torch.isnan(theirs).any()):
            self.undecided = f"{place(node)}: PyTorch's own levels are NaN on this input"
            return
        found.judged += 1
        self.levels.append((each, levels))
        bits = levels.numel() * (2**each.pack.bits - 1)
        found.bits += bits
        before = found.flips
        allowed, wrong = compared.allowed, compared.wrong
        if self.findings.sign_of_zero == "+1":  # the user gave up the third value: counted
            given_up = wrong & (theirs.abs() <= allowed) & (levels > 0)
            found.zeros += int(given_up.sum())
            wrong = wrong & ~given_up
        exact = each.compared is not None and graph.exact(nodes, each.roots)
        narrow = [root for root in each.roots if self._is_narrow(root)]
        if narrow or self._in_half(nodes, each.roots):
            found.narrow = True
            found.flips += int(wrong.sum())
            usual = self._usual(node, nodes, roots, narrow, theirs, allowed)
            turned = TIMES * usual + SHARE * wrong.numel() + FEW
            kinds = set(self.narrow.values()) | ({"half precision"} if self.halves else set())
            if int(wrong.sum()) > turned and ("int8" not in kinds or self.calibrated):
                found.fail(
                    f"{int(wrong.sum())} of {wrong.numel()} levels are not PyTorch's, and rounding "
                    f"to {' and '.join(sorted(kinds))} explains {int(turned)}"
                )
            return
        if bool(wrong.any()):
            limit = 0.0 if exact else self.distance_limit
            held = torch.where(wrong, levels, theirs)
            explained = explain(
                graph, nodes, node, self.values, roots, held, allowed, limit, self.cut
            )
            self._note(found, each, levels, theirs, wrong, explained)
        self._count_flips(node, nodes, each, levels, theirs, allowed)
        found.turned += found.flips - before > max(UNDECIDED_FEW, UNDECIDED * bits)

    def _is_narrow(self, root: fx.Node) -> bool:
        """Whether a root is not taken from the artefact and comes from a bf16 or int8 layer."""
        nodes = self.graph.slice(root, self.cut)
        return root not in self.cut and bool(self.narrow.keys() & set(nodes))

    def _in_half(self, nodes: Sequence[fx.Node], roots: Sequence[fx.Node]) -> bool:
        """Whether levels or their roots are computed in half precision behind the cut."""
        before = self.graph.slice_of(roots, self.cut)
        return bool(self.halves & ({*nodes, *before} - set(self.cut)))

    def _usual(
        self,
        node: fx.Node,
        nodes: Sequence[fx.Node],
        roots: Values,
        narrow: Sequence[fx.Node],
        theirs: torch.Tensor,
        allowed: float,
    ) -> int:
        """How many levels change where operands of narrow layers, or results in half, round."""
        changed = [self.graph.evaluate(nodes, self.values, self._moved_by_rounding(roots, narrow))]
        if self.halves:
            whole = self.graph.slice(node, [each for each in self.cut if each is not node])
            for change in moves(self.halves):
                changed.append(self.graph.evaluate(whole, self.values, {}, change))
        return max(int(apart(values[node], theirs, allowed).sum()) for values in changed)

    def _moved_by_rounding(self, roots: Values, narrow: Sequence[fx.Node]) -> Values:
        """The roots, where the operands of bf16 and int8 layers before them are rounded."""
        moved = dict(roots)
        for root in narrow:
            nodes = self.graph.slice(root, self.cut)
            moved[root] = change_of(self.graph, self.values, root, nodes, self.narrow)
        return moved

    def _note(
        self,
        found: SiteFindings,
        each: Pack,
        levels: torch.Tensor,
        theirs: torch.Tensor,
        wrong: torch.Tensor,
        explained: Explained,
    ) -> None:
        assert each.pack.site is not None
        if explained.unexplained:
            at = int(wrong.flatten().nonzero()[0])
            found.wrong_levels += explained.unexplained
            found.fail(
                f"{explained.unexplained} of {levels.numel()} levels are not PyTorch's function of "
                f"{', '.join(each.pack.site.roots)}: the first is {float(levels.flatten()[at]):g}, "
                f"PyTorch gives {float(theirs.flatten()[at]):g}"
            )
        else:
            found.flips += steps_apart(each, levels, theirs, wrong)
            found.distance = max(found.distance, explained.distance)

    def _count_flips(
        self,
        node: fx.Node,
        nodes: Sequence[fx.Node],
        each: Pack,
        levels: torch.Tensor,
        theirs: torch.Tensor,
        allowed: float,
    ) -> None:
        """Count the bits that PyTorch's activations, in place of the artefact's, would turn."""
        changed = {root: self.free.get(root, self.values[root]) for root in each.roots}
        if all(changed[root] is self.values[root] for root in each.roots):
            return
        other = self.graph.evaluate(nodes, self.values, changed)[node].double()
        flipped = apart(levels, other, allowed) & ~apart(levels, theirs, allowed)
        if bool(flipped.any()):
            each.found.flips += steps_apart(each, levels, other, flipped)
            each.found.distance = max(each.found.distance, self._moved(each, flipped))

    def _moved(self, each: Pack, flipped: torch.Tensor) -> float:
        """How far the compared activations lie from PyTorch's where bits flipped, in their rms."""
        if each.compared is None:
            return each.found.deviation
        ours, theirs = self.values[each.compared], self.free[each.compared]
        moved = (ours.double() - theirs.double()).abs()
        if moved.shape == flipped.shape:
            moved = moved[flipped]
        return float(moved.max()) / rms(theirs)


@dataclass(frozen=True)
class Compared:
    """The levels that a kernel packed beside PyTorch's function of some roots.

    Attributes:
        nodes: between the roots and the level tensor.
        roots: values of the roots.
        theirs: PyTorch's levels, float64.
        allowed: how far levels may be apart and be the same.
        wrong: where they are further apart.
    """

    nodes: list[fx.Node]
    roots: Values
    theirs: torch.Tensor
    allowed: float
    wrong: torch.Tensor


def compare(
    graph: Graph, values: Mapping[fx.Node, Any], each: Pack, levels: torch.Tensor
) -> Compared | None:
    """Evaluate PyTorch's function of the roots, and compare; None where it depends on none."""
    site = each.pack.site
    assert site is not None
    nodes = graph.between(each.roots, each.result)
    if not nodes and each.result not in each.roots:
        return None
    roots = {root: values[root] for root in each.roots}
    own = graph.evaluate(nodes, values, roots)
    theirs = own[each.result].double()
    # Not only by what is there: of an image of zeros all levels are 0 but for their rounding.
    size = max(float(theirs.abs().max()), abs(site.base), abs(site.step))
    allowed = _LEVEL * size + _EPSILON * _largest(own)
    return Compared(nodes, roots, theirs, allowed, apart(levels, theirs, allowed))


def steps_apart(each: Pack, levels: torch.Tensor, others: torch.Tensor, where: torch.Tensor) -> int:
    """How many comparisons decide otherwise: between levels two steps apart lie two."""
    assert each.pack.site is not None
    steps = (levels - others).abs()[where] / each.pack.site.step
    return int(steps.round().clamp(min=1).sum())


def _largest(values: Mapping[fx.Node, Any]) -> float:
    """The largest finite magnitude of intermediate values: it bounds what rounding leaves."""
    largest = 0.0
    for value in values.values():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            finite = torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
            largest = max(largest, float(finite.abs().max()))
    return largest
