"""The comparison of an artefact with PyTorch, image by image and binarisation by binarisation.

The reference is PyTorch: the exported graph, executed by PyTorch's operators, and the module
itself. Nothing of the compiler is used but what the artefact's manifest says: which tensor of that
graph each kernel packs. Three things are established for every image:

1. The packed bits are exactly the comparisons of the artefact's own activations and thresholds.
2. Every activation that is compared, and the output, is PyTorch's for the same bits, and the packed
   levels are PyTorch's function of the artefact's activations; see `replay`.
3. Running free, the output is the module's, or differs by what rounding makes of it.

What cannot be judged is listed in `Findings.not_judged`; the artefact is then not called valid.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from tvm_insta.frontend import HALVES, as_arrays, export_graph, join_outputs, joined
from tvm_insta.runtime.manifest import Manifest
from tvm_insta.runtime.trace import TraceEntry
from tvm_insta.validate import eager
from tvm_insta.validate.findings import DARK, HALF, LOGITS, Findings, SiteFindings
from tvm_insta.validate.free import first_parting
from tvm_insta.validate.graph import Graph, Values, layers_in
from tvm_insta.validate.half import half_nodes
from tvm_insta.validate.inputs import Images, Tensors
from tvm_insta.validate.narrow import narrow_layers
from tvm_insta.validate.packed import read_packed
from tvm_insta.validate.replay import Replay
from tvm_insta.validate.rounding import Outcome, apart, distance, judge

Array = npt.NDArray[Any]
Part = Callable[[torch.Tensor], torch.Tensor]


class Artefact(Protocol):
    """What is compared: `runtime.Module`, or whatever else runs an artefact."""

    @property
    def manifest(self) -> Manifest:
        """What the artefact says of itself."""

    def __call__(self, *inputs: Any) -> Array | tuple[Array, ...]:
        """The output of a batch, or its outputs."""

    def trace(self, *inputs: Any) -> list[TraceEntry]:
        """What every kernel read and wrote."""


def validate(
    artefact: Artefact,
    module: nn.Module,
    inputs: Sequence[torch.Tensor] | Images,
    *,
    progress: Callable[[int, int], None] | None = None,
    graph: fx.GraphModule | None = None,
    calibrated: bool = False,
) -> Findings:
    """Compare a loaded artefact with the PyTorch module it was compiled from.

    Args:
        artefact: loaded, either form.
        module: the same network in PyTorch.
        inputs: one tensor per input, ``[images, ...]``, or what reads images one by one.
        progress: called with the number of the image that begins and the number of images.
        graph: what `export_graph` and `join_outputs` give for the module; None exports it.
        calibrated: no input goes beyond those that int8 layers were calibrated with.

    Raises:
        InputError: the inputs do not fit.
        ImportModelError: the module cannot be exported.
        ArtefactError: it is of an earlier version, and does not say in which numbers it computes.
    """
    images = Tensors(inputs) if isinstance(inputs, Sequence) else inputs
    return _Validation(artefact, module, images, graph, calibrated).run(images, progress)


class _Validation:
    def __init__(
        self,
        artefact: Artefact,
        module: nn.Module,
        images: Images,
        graph: fx.GraphModule | None,
        calibrated: bool,
    ) -> None:
        self.calibrated = calibrated
        self.artefact = artefact
        manifest = artefact.manifest
        if graph is None:
            graph = export_graph(module, images.one(0), max_batch=manifest.max_batch, dynamic=True)
            join_outputs(graph)
        self.eager = eager.Eager(module)
        self.graph = Graph(graph)
        self.packs = manifest.binarisations
        self.parts = _parts(manifest)
        stem, storage = (str(manifest.options.get(n, "fp32")) for n in ("stem", "storage"))
        self.findings = Findings(len(images), stem=stem, storage=storage)
        self.findings.sites = [SiteFindings(f"kernel {pack.kernel}") for pack in self.packs]
        self.findings.sign_of_zero = str(manifest.options.get("sign_of_zero", "exact"))
        if storage == "fp16":
            self.findings.distance_limit = self.findings.logits_limit = HALF
        self.narrow = narrow_layers(self.graph, manifest)
        self.halves = half_nodes(self.graph)
        self.undecided: list[str] = []
        self.sizes: dict[Part, float] = {}  # the largest element so far

    def run(self, images: Images, progress: Callable[[int, int], None] | None) -> Findings:
        findings, count = self.findings, self.findings.images
        same, same_forced = 0, 0
        for number, index in enumerate(_brightest_first(images)):
            if progress is not None:
                progress(number + 1, count)
            one, forced = self._image(images.one(index))
            same += one
            same_forced += forced
        findings.top1 = same / count
        judged = max(findings.outputs_judged, 1)
        findings.top1_forced = same_forced / judged if findings.outputs_judged else 1.0
        self._leave_out()
        return findings

    def _image(self, image: Sequence[torch.Tensor]) -> tuple[bool, bool]:
        arrays = as_arrays(image)
        found = self.artefact(*arrays)
        outputs = found if isinstance(found, tuple) else (found,)
        ours = joined([torch.from_numpy(np.asarray(each)) for each in outputs])
        trace = self.artefact.trace(*arrays) if self.packs else []
        replay = Replay(
            self.graph, self.findings, self.narrow, self.halves, calibrated=self.calibrated
        )
        before = self._turned()
        packed = [(pack, read_packed(trace[pack.kernel], pack)) for pack in self.packs]
        replay.run(image, packed)
        forced = self._judge_output(replay, ours)
        turned = self._turned() > before
        return self._judge_free(image, ours, None if turned else replay), forced

    def _turned(self) -> int:
        """Bits that are not PyTorch's, so far."""
        return self.findings.flips + sum(site.zeros for site in self.findings.sites)

    def _judge_output(self, replay: Replay, ours: torch.Tensor) -> bool:
        theirs = replay.values[self.graph.output][0]
        if ours.shape != theirs.shape:
            self.findings.output_failure = (
                f"the output has the shape {list(ours.shape)}, in PyTorch {list(theirs.shape)}"
            )
            return False
        return all([self._judge_part(replay, ours, part) for part in self.parts])

    def _judge_part(self, replay: Replay, ours: torch.Tensor, part: Part) -> bool:
        findings, node = self.findings, self.graph.output
        theirs, ours = part(replay.values[node][0]), part(ours)
        nodes = self.graph.slice(node, replay.cut)
        size = self._output_size(part, theirs)
        difference = distance(ours, theirs) / size
        same = _best(ours) == _best(theirs)
        if (self.narrow.keys() | self.halves) & set(nodes):
            findings.outputs_judged += 1
            findings.logits_forced = max(findings.logits_forced, difference)
            clause = replay.judge_rounded(node, nodes, ours, lambda value: part(value[0]))
            findings.output_failure = findings.output_failure or clause
            return same
        allowed = findings.logits_limit * size
        if bool(apart(ours, theirs, allowed).any()):
            judged = judge(
                self.graph, replay.values, node, replay.cut, ours, allowed, lambda v: part(v[0])
            )
            if judged.outcome is Outcome.UNDECIDED or replay.undecided:
                self.undecided.append(replay.undecided or judged.outcome.value)
                return False
            if judged.outcome is Outcome.WRONG:
                layers = layers_in(nodes)
                by = f"; it is computed by {', '.join(layers)}" if layers else ""
                findings.output_failure = (
                    f"the output differs from PyTorch's by {difference:.2e} of the largest for the "
                    f"same bits, allowed are {judged.allowed / size:.1e}{by}"
                )
            same = same or judged.outcome is Outcome.EXCUSED
        findings.outputs_judged += 1
        findings.logits_forced = max(findings.logits_forced, difference)
        return same

    def _judge_free(
        self, image: Sequence[torch.Tensor], ours: torch.Tensor, replay: Replay | None
    ) -> bool:
        """Compare with the module; without a replay no more than its shape, type and class."""
        findings = self.findings
        expected = joined(self.eager(image))
        if ours.shape != expected.shape:
            findings.free_failure = (
                f"the output has the shape {list(ours.shape)}, PyTorch's has {list(expected.shape)}"
            )
            return False
        half = expected.dtype in HALVES  # an artefact gives float32
        if ours.dtype != (torch.float32 if half else expected.dtype):
            findings.free_failure = f"the output is {ours.dtype}, PyTorch's is {expected.dtype}"
        same, far = [], []
        for part in self.parts:
            one, other = part(ours), part(expected)
            difference = distance(one, other) / self._output_size(part, other)
            findings.logits_free = max(findings.logits_free, difference)
            same.append(_best(one) == _best(other))
            if difference > findings.logits_limit:
                far.append((part, difference))
        if far:
            values = self.graph.run(image)
            exported = values[self.graph.output][0]
            for part, _ in far:
                self._judge_export(image, part(exported), part(expected), part)
            rounded = bool(self.narrow or self.halves) or findings.storage != "fp32"
            if replay is not None and not rounded:
                self._judge_parting(image, replay, values, far)
        return all(same)

    def _judge_export(
        self,
        image: Sequence[torch.Tensor],
        exported: torch.Tensor,
        expected: torch.Tensor,
        part: Part,
    ) -> None:
        """Whether the exported graph, running free, gives the module's output."""
        difference = eager.relative(exported, expected)
        if difference > LOGITS and not eager.is_rounding(
            self.graph, image, difference, part, exported
        ):
            self.findings.free_failure = (
                f"the module's output differs from that of its exported graph by {difference:.2e} "
                "of the largest: torch.export changes what it computes"
            )

    def _judge_parting(
        self,
        image: Sequence[torch.Tensor],
        replay: Replay,
        values: Values,
        far: Sequence[tuple[Part, float]],
    ) -> None:
        """Whether a bit that rounding turned, or rounding alone, explains another output."""
        findings = self.findings
        found = first_parting(self.graph, values, replay.levels, findings.distance_limit)
        if found is not None and not found.unexplained:
            findings.free_flips += found.flips
            findings.free_distance = max(findings.free_distance, found.distance)
            return
        why = "every bit is PyTorch's"
        if found is not None:
            why = (
                f"rounding does not explain {found.unexplained} of the {found.elements} levels of "
                f"{found.pack.found.name}, the first that differ"
            )
        whole = values[self.graph.output][0]
        for part, difference in far:
            if not eager.is_rounding(self.graph, image, difference, part, part(whole)):
                findings.free_failure = findings.free_failure or (
                    f"running free, the output differs from the module's by {difference:.2e} of "
                    f"the largest, and {why}"
                )

    def _output_size(self, part: Part, value: torch.Tensor) -> float:
        """The largest element, or a part of the largest of all images; see `SiteFindings.scale`."""
        largest = eager.largest(value)
        self.sizes[part] = max(self.sizes.get(part, 0.0), largest)
        return max(largest, DARK * self.sizes[part])

    def _leave_out(self) -> None:
        """What no image could judge."""
        findings = self.findings
        for pack, found in zip(self.packs, findings.sites, strict=True):
            if pack.site is not None and not found.judged and not found.failure:
                findings.leave_out(f"{found.name}: on no input could its levels be compared")
        for reason in findings.undecided:
            findings.leave_out(reason)
        if not findings.outputs_judged and not findings.output_failure:
            why = f": {self.undecided[0]}" if self.undecided else ""
            findings.leave_out(f"on no input could the output be compared{why}")


def _parts(manifest: Manifest) -> list[Part]:
    """How each output is cut out of all of them; each is judged by its own size."""
    if len(manifest.outputs) == 1:
        return [lambda whole: whole]
    parts: list[Part] = []
    first = 0
    for output in manifest.outputs:
        count = math.prod(int(size) for size in output.shape[1:])
        parts.append(functools.partial(torch.narrow, dim=1, start=first, length=count))
        first += count
    return parts


def _best(logits: torch.Tensor) -> int:
    return int(logits.reshape(-1).to(torch.float64).argmax()) if logits.numel() else 0


def _brightest_first(images: Images) -> list[int]:
    """Numbers of the images, the largest inputs first: they tell how large things are."""
    sizes = [
        float(images.one(index)[0].double().abs().nan_to_num(0.0, 0.0, 0.0).sum())
        for index in range(len(images))
    ]
    return sorted(range(len(images)), key=lambda index: -sizes[index])
