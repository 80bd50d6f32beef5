"""One image through the reference with the artefact's values: every step judged on its own.

Where a kernel of the artefact compares a tensor, that tensor must be PyTorch's, to within rounding;
PyTorch then goes on with the artefact's. Where the kernel packs levels, they must be PyTorch's
function of that tensor; PyTorch then goes on with the artefact's levels. So no error, and no bit
that rounding turned round, hides behind an earlier one, and one wrong integer is a whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tvm_insta.runtime.manifest import Binarisation
from tvm_insta.validate.findings import Findings, SiteFindings
from tvm_insta.validate.graph import Graph, Values, layers_in, place
from tvm_insta.validate.levels import FEW, SHARE, Explained, explain
from tvm_insta.validate.narrow import TIMES, change_of
from tvm_insta.validate.packed import Packed, arranged, laid_out_like
from tvm_insta.validate.rounding import Outcome, apart, distance, judge, rms

_LEVEL = 1e-6  # relative: a straight-through sum (a - b) + b leaves rounding behind
_EPSILON = 2.0**-22


@dataclass
class _Pack:
    """A binarisation whose nodes are known."""

    pack: Binarisation
    packed: Packed
    found: SiteFindings
    result: fx.Node
    compared: fx.Node | None
    roots: list[fx.Node]


class Replay:
    """The replay of one image.

    Attributes:
        values: of every node, after `run`.
        undecided: why what follows cannot be judged on this image, "" while it can.
    """

    def __init__(
        self,
        graph: Graph,
        findings: Findings,
        narrow: Mapping[fx.Node, str],
        *,
        calibrated: bool,
    ) -> None:
        self.graph = graph
        self.findings = findings
        self.distance_limit = findings.distance_limit
        self.narrow = narrow
        self.calibrated = calibrated
        self.values: Values = {}
        self.free: Values = {}  # PyTorch's values of nodes that were replaced by the artefact's
        self.cut: list[fx.Node] = []
        self.undecided = ""

    def run(
        self, image: Sequence[torch.Tensor], packs: Sequence[tuple[Binarisation, Packed]]
    ) -> None:
        """Execute the graph, and judge and take over every traced value."""
        at_compared: dict[fx.Node, list[_Pack]] = {}
        at_result: dict[fx.Node, list[_Pack]] = {}
        for found, (pack, packed) in zip(self.findings.sites, packs, strict=True):
            found.wrong_bits += packed.wrong
            known = self._known(pack, packed, found)
            if known is None:
                continue
            at_result.setdefault(known.result, []).append(known)
            if known.compared is not None:
                at_compared.setdefault(known.compared, []).append(known)

        def change(node: fx.Node, value: Any) -> Any:
            self.values[node] = value
            if at_result.get(node):
                self._take_levels(node, at_result[node])
            if at_compared.get(node):
                self._take_compared(node, at_compared[node])
            return self.values[node]

        self.graph.run(image, change)

    def _known(self, pack: Binarisation, packed: Packed, found: SiteFindings) -> _Pack | None:
        site, named = pack.site, self.graph.named
        if site is None:
            self.findings.leave_out(
                f"the manifest does not say which tensor of the network kernel {pack.kernel} packs"
            )
            return None
        names = {site.result, *site.roots, *([site.compared] if site.compared else [])}
        unknown = sorted(names - set(named))
        if unknown:
            self.findings.leave_out(
                f"kernel {pack.kernel} packs {site.result}, but the exported network has no tensor "
                f"{unknown[0]}: it is another network than the one that was compiled, or another "
                "version of PyTorch exports it"
            )
            return None
        found.name = place(named[site.result])
        compared = named[site.compared] if site.compared else None
        roots = [named[name] for name in site.roots]
        return _Pack(pack, packed, found, named[site.result], compared, roots)

    def _take_compared(self, node: fx.Node, packs: Sequence[_Pack]) -> None:
        theirs = self.values[node]
        for number, each in enumerate(packs):
            assert each.pack.site is not None
            ours = arranged(each.packed.x, each.pack.site.axes, theirs.shape)
            if ours is None:
                self.findings.leave_out(
                    f"{each.found.name}: the compared tensor {node.name} has "
                    f"{each.packed.x.size} elements in the artefact and {theirs.numel()} in PyTorch"
                )
                continue
            self._judge(node, ours, each.found)
            if number == 0:
                self.free[node] = theirs
                self.values[node] = laid_out_like(theirs, ours)
        if node in self.free:
            self.cut.append(node)

    def _judge(self, node: fx.Node, ours: torch.Tensor, found: SiteFindings) -> None:
        theirs = self.values[node]
        scale = rms(theirs)
        deviation = distance(ours, theirs) / scale
        nodes = self.graph.slice(node, self.cut)
        if self.narrow.keys() & set(nodes):
            found.told = max(found.told, deviation)
            found.fail(self.judge_narrow(node, nodes, ours, _itself))
            return
        allowed = self.distance_limit * scale
        if bool(apart(ours, theirs, allowed).any()):
            judged = judge(
                self.graph, self.values, node, self.cut, ours.to(theirs.dtype), allowed, _itself
            )
            if judged.outcome is Outcome.UNDECIDED:
                self.undecided = f"{place(node)}: {judged.outcome.value}"
                return
            if judged.outcome is Outcome.WRONG:
                found.fail(
                    f"the activations {place(node)} differ from PyTorch's by {deviation:.2e} rms "
                    f"for the same bits, allowed are {judged.allowed / scale:.1e}{_made_by(nodes)}"
                )
        found.deviation = max(found.deviation, deviation)

    def judge_narrow(
        self,
        node: fx.Node,
        nodes: Sequence[fx.Node],
        ours: torch.Tensor,
        pick: Callable[[Any], torch.Tensor],
    ) -> str:
        """What is wrong with a value straight from layers in bf16 or int8, "" for nothing."""
        kinds = {self.narrow[each] for each in nodes if each in self.narrow}
        if "int8" in kinds and not self.calibrated:
            return ""
        theirs = pick(self.values[node])
        changed = pick(change_of(self.graph, self.values, node, nodes, self.narrow))
        off, allowed = (rms(value.double() - theirs) for value in (ours, changed))
        allowed = TIMES * allowed + self.distance_limit * rms(theirs)
        if off <= allowed or not theirs.is_floating_point():
            return ""
        return (
            f"{place(node)} differs from PyTorch's by {off / rms(theirs):.2e} (rms), allowed for "
            f"{' and '.join(sorted(kinds))} is {allowed / rms(theirs):.1e}{_made_by(nodes)}"
        )

    def _take_levels(self, node: fx.Node, packs: Sequence[_Pack]) -> None:
        taken = None
        for each in packs:
            site, theirs = each.pack.site, self.values[node]
            assert site is not None
            codes = arranged(each.packed.codes, site.axes, theirs.shape)
            if codes is None:
                self.findings.leave_out(
                    f"{each.found.name}: {each.packed.codes.size} codes are packed for "
                    f"{theirs.numel()} elements"
                )
                continue
            levels = site.base + site.step * codes.double()
            self._judge_levels(node, each, levels)
            if taken is None:
                taken = levels.to(theirs.dtype)
        if taken is not None:
            self.values[node] = laid_out_like(theirs, taken)
            self.cut.append(node)

    def _judge_levels(self, node: fx.Node, each: _Pack, levels: torch.Tensor) -> None:
        site, found, graph = each.pack.site, each.found, self.graph
        assert site is not None
        nodes = graph.between(each.roots, node)
        if not nodes and node not in each.roots:
            self.findings.leave_out(
                f"{found.name}: it does not depend on {', '.join(site.roots) or 'any named tensor'}"
            )
            return
        roots = {root: self.values[root] for root in each.roots}
        own = graph.evaluate(nodes, self.values, roots)
        theirs = own[node].double()
        if bool(torch.isnan(theirs).any()):
            self.undecided = f"{place(node)}: PyTorch's own levels are NaN on this input"
            return
        found.judged += 1
        found.bits += levels.numel() * (2**each.pack.bits - 1)
        tolerance = _LEVEL * float(theirs.abs().max()) + _EPSILON * _largest(own)
        wrong = apart(levels, theirs, tolerance)
        if self.findings.sign_of_zero == "+1":  # the user gave up the third value: counted
            given_up = wrong & (theirs.abs() <= tolerance) & (levels > 0)
            found.zeros += int(given_up.sum())
            wrong &= ~given_up
        exact = each.compared is not None and graph.exact(nodes, each.roots)
        narrow = [root for root in each.roots if self._is_narrow(root)]
        if narrow:
            found.flips += int(wrong.sum())
            moved = self._moved_by_rounding(roots, narrow)
            usual = apart(graph.evaluate(nodes, self.values, moved)[node], theirs, tolerance)
            allowed = TIMES * int(usual.sum()) + SHARE * wrong.numel() + FEW
            kinds = {self.narrow[layer] for layer in self.narrow}
            if int(wrong.sum()) > allowed and ("int8" not in kinds or self.calibrated):
                found.fail(
                    f"{int(wrong.sum())} of {wrong.numel()} levels are not PyTorch's, and rounding "
                    f"to {' and '.join(sorted(kinds))} explains {int(allowed)}"
                )
            return
        if bool(wrong.any()):
            limit = 0.0 if exact else self.distance_limit
            held = torch.where(wrong, levels, theirs)
            explained = explain(graph, nodes, node, self.values, roots, held, tolerance, limit)
            self._note(found, each, levels, theirs, wrong, explained)
        self._count_flips(node, nodes, each, levels, theirs, tolerance)

    def _is_narrow(self, root: fx.Node) -> bool:
        """Whether a root is not taken from the artefact and comes from a bf16 or int8 layer."""
        nodes = self.graph.slice(root, self.cut)
        return root not in self.cut and bool(self.narrow.keys() & set(nodes))

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
        each: _Pack,
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
            steps = (levels - theirs).abs()[wrong] / each.pack.site.step
            found.flips += int(steps.round().clamp(min=1).sum())
            found.distance = max(found.distance, explained.distance)

    def _count_flips(
        self,
        node: fx.Node,
        nodes: Sequence[fx.Node],
        each: _Pack,
        levels: torch.Tensor,
        theirs: torch.Tensor,
        tolerance: float,
    ) -> None:
        """Count the bits that PyTorch's activations, in place of the artefact's, would turn."""
        changed = {root: self.free.get(root, self.values[root]) for root in each.roots}
        if all(changed[root] is self.values[root] for root in each.roots):
            return
        other = self.graph.evaluate(nodes, self.values, changed)[node].double()
        flipped = apart(levels, other, tolerance) & ~apart(levels, theirs, tolerance)
        if bool(flipped.any()):
            assert each.pack.site is not None
            steps = (levels - other).abs()[flipped] / each.pack.site.step
            each.found.flips += int(steps.round().clamp(min=1).sum())
            each.found.distance = max(each.found.distance, self._moved(each, flipped))

    def _moved(self, each: _Pack, flipped: torch.Tensor) -> float:
        """How far the compared activations lie from PyTorch's where bits flipped, in their rms."""
        if each.compared is None:
            return each.found.deviation
        ours, theirs = self.values[each.compared], self.free[each.compared]
        moved = (ours.double() - theirs.double()).abs()
        if moved.shape == flipped.shape:
            moved = moved[flipped]
        return float(moved.max()) / rms(theirs)


def _itself(value: Any) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def _largest(values: Mapping[fx.Node, Any]) -> float:
    """The largest finite magnitude of intermediate values: it bounds what rounding leaves."""
    largest = 0.0
    for value in values.values():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            finite = torch.nan_to_num(value, nan=0.0, posinf=0.0, neginf=0.0)
            largest = max(largest, float(finite.abs().max()))
    return largest


def _made_by(nodes: Sequence[fx.Node]) -> str:
    layers = layers_in(nodes)
    return f"; they are computed by {', '.join(layers)}" if layers else ""
