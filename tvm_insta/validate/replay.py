"""One image through the reference with the artefact's values: every step judged on its own.

Where a kernel of the artefact compares a tensor, that tensor must be PyTorch's, to within rounding;
PyTorch then goes on with the artefact's. Where the kernel packs levels, they must be PyTorch's
function of that tensor; PyTorch then goes on with the artefact's levels. So no error, and no bit
that rounding turned round, hides behind an earlier one, and one wrong integer is a whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from tvm_insta.runtime.manifest import Binarisation
from tvm_insta.validate.findings import SiteFindings
from tvm_insta.validate.graph import layers_in, place
from tvm_insta.validate.half import allowed_rms, off_by
from tvm_insta.validate.narrow import TIMES, change_of
from tvm_insta.validate.packed import Packed, arranged, laid_out_like
from tvm_insta.validate.replayed import Pack, Replayed
from tvm_insta.validate.rounding import Outcome, apart, distance, judge, rms


class Replay(Replayed):
    """The replay of one image: every node, with the artefact's values put in their places."""

    def run(
        self, image: Sequence[torch.Tensor], packs: Sequence[tuple[Binarisation, Packed]]
    ) -> None:
        """Execute the graph, and judge and take over every traced value."""
        at_compared: dict[fx.Node, list[Pack]] = {}
        at_result: dict[fx.Node, list[Pack]] = {}
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

    def _known(self, pack: Binarisation, packed: Packed, found: SiteFindings) -> Pack | None:
        site, named = pack.site, self.graph.named
        if site is None:
            self.findings.leave_out(
                f"the manifest does not say which tensor of the network kernel {pack.kernel} packs"
            )
            return None
        if not site.result:
            self.findings.leave_out(
                f"kernel {pack.kernel} packs a tensor that only the compiled network has: please "
                "report it"
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
        result = named[site.result]
        roots = [self.graph.as_read_by(result, named[name]) for name in site.roots]
        compared = self.graph.as_read_by(result, named[site.compared]) if site.compared else None
        return Pack(pack, packed, found, result, compared, roots)

    def _take_compared(self, node: fx.Node, packs: Sequence[Pack]) -> None:
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
        scale = found.scale(rms(theirs))
        deviation = distance(ours, theirs) / scale
        nodes = self.graph.slice(node, self.cut)
        if (self.narrow.keys() | self.halves) & set(nodes):
            found.told = max(found.told, deviation)
            found.narrow = True
            found.fail(self.judge_rounded(node, nodes, ours, _itself))
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

    def judge_rounded(
        self,
        node: fx.Node,
        nodes: Sequence[fx.Node],
        ours: torch.Tensor,
        pick: Callable[[Any], torch.Tensor],
    ) -> str:
        """What is wrong with a value behind narrow layers or half precision, "" for nothing."""
        kinds = {self.narrow[each] for each in nodes if each in self.narrow}
        if "int8" in kinds and not self.calibrated:
            return ""
        theirs = pick(self.values[node])
        if not theirs.is_floating_point():
            return ""
        allowed = self.distance_limit * rms(theirs)
        if kinds:
            changed = pick(change_of(self.graph, self.values, node, nodes, self.narrow))
            allowed += TIMES * rms(changed.double() - theirs)
        if self.halves & set(nodes):
            kinds.add("half precision")
            allowed += allowed_rms(self.graph, self.values, node, nodes, self.halves, pick)
        off = off_by(ours, theirs)
        if off <= allowed:
            return ""
        return (
            f"{place(node)} differs from PyTorch's by {off / rms(theirs):.2e} (rms), allowed for "
            f"{' and '.join(sorted(kinds))} is {allowed / rms(theirs):.1e}{_made_by(nodes)}"
        )

    def _take_levels(self, node: fx.Node, packs: Sequence[Pack]) -> None:
        taken = None
        for each in packs:
            site, theirs = each.pack.site, self.values[node]
            assert site is not None
            codes = arranged(each.packed.codes, site.axes, theirs.shape, site.every)
            if codes is None:
                self.findings.leave_out(
                    f"{each.found.name}: {each.packed.codes.size} codes are packed for "
                    f"{theirs.numel()} elements"
                )
                continue
            levels = site.base + site.step * codes.double()
            if site.every:
                levels = _between_zeros(levels, site.every, each.found)
            self.judge_levels(node, each, levels)
            if taken is None:
                taken = levels.to(theirs.dtype)
        if taken is not None:
            self.values[node] = laid_out_like(theirs, taken)
            self.cut.append(node)


def _between_zeros(levels: torch.Tensor, every: Sequence[int], found: SiteFindings) -> torch.Tensor:
    """The levels of PyTorch's elements; what is packed between them must be 0."""
    kept = levels[tuple(slice(None, None, step) for step in every)]
    wrong = int(levels.count_nonzero() - kept.count_nonzero())
    if wrong:
        found.fail(f"{wrong} levels between the elements are not 0")
    return kept


def _itself(value: Any) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value


def _made_by(nodes: Sequence[fx.Node]) -> str:
    layers = layers_in(nodes)
    return f"; they are computed by {', '.join(layers)}" if layers else ""
