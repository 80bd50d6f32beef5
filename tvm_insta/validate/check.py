"""The comparison of an artefact with PyTorch, image by image and binarisation by binarisation.

Four things are established for every image:

1. The packed bits are exactly the comparisons of the artefact's own activations and thresholds.
2. With the artefact's earlier bits forced upon PyTorch, every activation that is compared agrees to
   within float rounding; a single wrong integer in a binary convolution would move it by a step.
3. The values that the bits stand for are those that PyTorch's own quantiser gives; where it gives
   another one, moving its operands by that rounding gives the artefact's.
4. The output agrees: within rounding for the same bits; and running free, the best class is another
   one than that of the PyTorch module itself only where a bit flipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from tvm_insta.frontend import export_graph
from tvm_insta.runtime import Module
from tvm_insta.runtime.manifest import Binarisation, Site
from tvm_insta.validate.findings import Findings, SiteFindings
from tvm_insta.validate.packed import Packed, read_packed
from tvm_insta.validate.replay import Override, Replay, rms

Array = npt.NDArray[Any]

_SAME = 1e-5
"""Values of one level differ by this at most, relative to the largest: scales such as 1 / 3 are
rounded, and straight-through sums ``(hard - soft) + soft`` are."""

_NOISE = 1e-6
"""How far rounding moves a sum, relative to its root mean square, where outputs are compared that
jump (class numbers, masks)."""


def validate(
    artefact: Module,
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    progress: Callable[[int, int], None] | None = None,
    graph: fx.GraphModule | None = None,
) -> Findings:
    """Compare a loaded artefact with the PyTorch module it was compiled from.

    Args:
        artefact: loaded, either form.
        module: the same network in PyTorch.
        inputs: one tensor per input, ``[images, ...]``.
        progress: called with the number of the image that begins and the number of images.
        graph: the module as `frontend.export_graph` exports it; None exports it here.

    Raises:
        InputError: the inputs do not fit.
    """
    return _Validation(artefact, module, inputs, graph).run(progress)


class _Validation:
    def __init__(
        self,
        artefact: Module,
        module: nn.Module,
        inputs: Sequence[torch.Tensor],
        graph: fx.GraphModule | None,
    ) -> None:
        self.artefact, self.module, self.inputs = artefact, module.eval(), inputs
        manifest = artefact.manifest
        examples = [tensor[:1] for tensor in inputs]
        self.replay = Replay(
            graph or export_graph(module, examples, max_batch=manifest.max_batch, dynamic=True)
        )
        options = manifest.options
        stem, storage = (str(options.get(name, "fp32")) for name in ("stem", "storage"))
        self.findings = Findings(images=int(inputs[0].shape[0]), stem=stem, storage=storage)
        self.packs = self._judged(manifest.binarisations)
        self.findings.sites = [SiteFindings(site.result) for _, site in self.packs]

    def _judged(self, packs: Sequence[Binarisation]) -> list[tuple[Binarisation, Site]]:
        """The packing kernels whose tensors PyTorch's graph has, too."""
        found = []
        for number, pack in enumerate(packs):
            site, nodes = pack.site, self.replay.nodes
            if site is None or site.result not in nodes or not set(site.roots) <= set(nodes):
                self.findings.not_judged.append(
                    f"binarisation {number} packs a tensor that PyTorch's graph does not have"
                )
            else:
                found.append((pack, site))
        return found

    def run(self, progress: Callable[[int, int], None] | None) -> Findings:
        """Compare all images."""
        findings = self.findings
        agree = agree_forced = 0
        for index in range(findings.images):
            if progress is not None:
                progress(index + 1, findings.images)
            image = [tensor[index : index + 1] for tensor in self.inputs]
            ours = self.artefact(*[tensor.numpy() for tensor in image])
            with torch.no_grad():
                expected = _first(self.module(*image)).numpy()
            flips = findings.flips
            forced = self._forced(image).numpy()
            same, same_forced = _same_class(ours, expected), _same_class(ours, forced)
            agree, agree_forced = agree + same, agree_forced + same_forced
            findings.logits_free = max(findings.logits_free, _relative(ours, expected))
            findings.nan_differs |= not np.array_equal(_nan(ours), _nan(forced))
            self._compare_outputs(ours, forced, image)
            findings.unexplained += not same and findings.flips == flips and not self._tied(ours)
        findings.top1 = agree / findings.images
        findings.top1_forced = agree_forced / findings.images
        return findings

    def _forced(self, image: Sequence[torch.Tensor]) -> torch.Tensor:
        """PyTorch's output for the artefact's bits; what is on the way is compared."""
        overrides: dict[str, Override] = {}
        self.own: dict[fx.Node, torch.Tensor] = {}
        self.given: dict[str, torch.Tensor] = {}
        if self.packs:
            trace = self.artefact.trace(*[tensor.numpy() for tensor in image])
            for (pack, site), found in zip(self.packs, self.findings.sites, strict=True):
                packed = read_packed(trace[pack.kernel], pack)
                found.bits += packed.x.size * len(packed.levels)
                found.wrong_bits += sum(map(packed.wrong_bits, range(len(packed.levels))))
                if site.compared is not None:
                    overrides[site.compared] = self._compared(packed, site, found)
                overrides[site.result] = self._result(packed, site, found)
        return self.replay.run(image, overrides)

    def _compared(self, packed: Packed, site: Site, found: SiteFindings) -> Override:
        def override(_: Replay, node: fx.Node, value: torch.Tensor) -> torch.Tensor:
            ours = _in_shape_of(packed.x, site, value)
            both = torch.isfinite(value) & torch.isfinite(ours)
            differ = (ours - value)[both].to(torch.float64).abs()
            if differ.numel():
                size = rms(value)
                found.deviation = max(found.deviation, float(differ.max()) / size)
                found.spread = max(found.spread, float(differ.square().mean().sqrt()) / size)
            if not torch.equal(torch.isnan(ours), torch.isnan(value)):
                found.deviation = float("inf")
            self.own[node], self.given[node.name] = value, ours
            return ours

        return override

    def _result(self, packed: Packed, site: Site, found: SiteFindings) -> Override:
        def override(replay: Replay, node: fx.Node, value: torch.Tensor) -> torch.Tensor:
            codes = _in_shape_of(packed.codes, site, value)
            ours = (site.base + site.step * codes.to(torch.float64)).to(value.dtype)
            self.given[node.name] = ours
            roots = [replay.nodes[name] for name in site.roots]
            # PyTorch's value for its own operands, where the artefact's were put in their place.
            own = value
            if any(root in self.own for root in roots):
                own = replay.moved(node, {root: self._back(root) for root in roots})
            top = abs(site.base + site.step * len(packed.levels))
            operands = [_magnitude(replay.values[root]) for root in roots]
            slack = min(_SAME * max(abs(site.base), top, *operands, 0.0), 0.25 * site.step)
            flipped = ((ours - own).abs() > slack) & ~torch.isnan(own)
            found.flips += int(flipped.sum())
            if flipped.any():
                self._flips(node, roots, ours, own, flipped, found, slack)
            return ours

        return override

    def _back(self, root: fx.Node) -> torch.Tensor:
        """What leads from the value that the replay goes on with to PyTorch's own."""
        value: torch.Tensor = self.replay.values[root]
        return self.own.get(root, value) - value

    def _flips(
        self,
        node: fx.Node,
        roots: Sequence[fx.Node],
        ours: torch.Tensor,
        own: torch.Tensor,
        flipped: torch.Tensor,
        found: SiteFindings,
        slack: float,
    ) -> None:
        """How far the operands must move for PyTorch to give the flipped values."""
        limit = max(self.findings.distance_limit, 4 * self.findings.narrow)
        far = flipped.clone()
        for distance in (limit / 64, limit / 8, limit):
            low, high = own, own
            for sign in (-1.0, 1.0):
                moved = {
                    root: self._back(root)
                    + sign * distance * rms(self.own.get(root, self.replay.values[root]))
                    for root in roots
                }
                value = self.replay.moved(node, moved) if roots else own
                low, high = torch.minimum(low, value), torch.maximum(high, value)
            inside = (ours >= low - slack) & (ours <= high + slack)
            if bool((far & inside).any()):
                found.distance = max(found.distance, distance)
            far &= ~inside
        found.far += int(far.sum())
        if far.any():
            found.distance = float("inf")

    def _compare_outputs(self, ours: Array, forced: Array, image: Sequence[torch.Tensor]) -> None:
        findings = self.findings
        if ours.shape != forced.shape:
            findings.wrong_outputs += max(ours.size, 1)
            findings.logits_forced = float("inf")
            return
        largest = max(_largest(forced), 1e-30)
        differ = np.abs(_finite(ours) - _finite(forced)) / largest
        findings.logits_forced = max(findings.logits_forced, float(differ.max(initial=0.0)))
        size = max(float(np.sqrt(np.mean(np.square(_finite(forced))))), 1e-30)
        spread = float(np.sqrt(np.mean(np.square(_finite(ours) - _finite(forced))))) / size
        findings.spread_forced = max(findings.spread_forced, spread)
        wrong = differ > findings.logits_limit
        if wrong.any():
            wrong &= ~self._moved_by_rounding(ours, image, findings.logits_limit * largest)
        findings.wrong_outputs += int(wrong.sum())

    def _moved_by_rounding(
        self, ours: Array, image: Sequence[torch.Tensor], slack: float
    ) -> npt.NDArray[np.bool_]:
        """Which outputs lie between those that rounding in other orders gives."""
        low = high = None
        same: dict[str, Override] = {
            name: lambda _, __, ___, given=given: given  # type: ignore[misc]
            for name, given in self.given.items()
        }
        for seed in range(8):
            output = self.replay.run(image, same, noise=_NOISE, seed=seed).numpy()
            value = _finite(output)
            low = value if low is None else np.minimum(low, value)
            high = value if high is None else np.maximum(high, value)
        assert low is not None and high is not None
        return (_finite(ours) >= low - slack) & (_finite(ours) <= high + slack)

    def _tied(self, ours: Array) -> bool:
        """Whether the two best outputs are equal to within the limit, or classes mean nothing."""
        flat = _finite(ours).reshape(-1)
        if ours.dtype.kind not in "f" or flat.size < 2:
            return True
        best, second = np.sort(flat)[[-1, -2]]
        return bool(best - second <= 4 * self.findings.logits_limit * max(_largest(ours), 1e-30))


def _in_shape_of(value: Array, site: Site, like: torch.Tensor) -> torch.Tensor:
    """A kernel's array in the layout of PyTorch's tensor."""
    axes = site.axes if len(site.axes) == value.ndim else tuple(range(value.ndim))
    return torch.from_numpy(np.ascontiguousarray(value.transpose(axes))).reshape(like.shape)


def _first(output: Any) -> torch.Tensor:
    while isinstance(output, (tuple, list)):
        output = output[0]
    assert isinstance(output, torch.Tensor)
    return output


def _same_class(ours: Array, expected: Array) -> bool:
    if ours.shape != expected.shape or ours.size == 0:
        return False
    return int(_finite(ours).reshape(-1).argmax()) == int(_finite(expected).reshape(-1).argmax())


def _relative(ours: Array, expected: Array) -> float:
    if ours.shape != expected.shape:
        return float("inf")
    differ = np.abs(_finite(ours) - _finite(expected)).max(initial=0.0)
    return float(differ) / max(_largest(expected), 1e-30)


def _finite(value: Array) -> npt.NDArray[np.float64]:
    """As float64; NaN and infinity become numbers that differ from nothing but each other."""
    return np.nan_to_num(value.astype(np.float64), nan=0.0, posinf=1e308, neginf=-1e308)


def _largest(value: Array) -> float:
    finite = value.astype(np.float64)[np.isfinite(value.astype(np.float64))]
    return float(np.abs(finite).max(initial=0.0))


def _nan(value: Array) -> npt.NDArray[np.bool_]:
    return np.isnan(value.astype(np.float64))


def _magnitude(value: torch.Tensor) -> float:
    finite = value[torch.isfinite(value)]
    return float(finite.abs().max()) if finite.numel() else 0.0
