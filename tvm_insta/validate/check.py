"""The comparison of an artefact with PyTorch, image by image and binarisation by binarisation.

Three things are established for every image:

1. The packed bits are exactly the comparisons of the artefact's own activations and thresholds.
2. With the artefact's bits forced upon PyTorch, every activation that is compared agrees to within
   float rounding; a single wrong integer in a binary convolution would move it by a whole step.
   Where PyTorch's comparison then gives another bit, the activation lies that close to its
   threshold: each such flip is counted, and its distance is checked.
3. The logits agree, forced within rounding and free in their best class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tvm_insta.errors import ValidationError
from tvm_insta.frontend import trace_and_fold
from tvm_insta.ops import packing
from tvm_insta.runtime import Module
from tvm_insta.runtime.manifest import Binarisation
from tvm_insta.runtime.trace import TraceEntry
from tvm_insta.validate.reference import Reference, Site

Array = npt.NDArray[Any]

DISTANCE = 2e-4
"""Largest distance of a flipped activation from its threshold, in units of the activation's root
mean square. Both sides sum thousands of float32 products in different orders (7x7x3 in the stem,
up to 12,544 cubes in a moment): errors of some 1e-6 per layer add up along the residual stream."""

LOGITS = 1e-3
"""Largest difference of the logits for the same bits, relative to the largest logit: the same
rounding, through the last layers."""

_COMPARE = {
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
}


@dataclass
class SiteFindings:
    """One binarisation, over all images.

    Attributes:
        name: of the binarisation in the PyTorch graph.
        bits: how many were compared.
        wrong_bits: packed bits that are not the comparison of the artefact's own values; must be 0.
        flips: bits that PyTorch would set otherwise, given the same bits in all earlier layers.
        distance: largest distance of a flip from its threshold, in units of the rms of x.
        deviation: largest difference of an activation from PyTorch's, in units of the rms of x.
    """

    name: str
    bits: int = 0
    wrong_bits: int = 0
    flips: int = 0
    distance: float = 0.0
    deviation: float = 0.0


@dataclass
class Findings:
    """What validation found.

    Attributes:
        images: how many were compared.
        sites: one entry per binarisation.
        top1: share of images whose best class agrees, both running free.
        logits_free: largest difference of the logits, both running free, relative to the largest.
        logits_forced: the same with the artefact's bits forced upon PyTorch.
        distance_limit: see `DISTANCE`.
        logits_limit: see `LOGITS`.
    """

    images: int
    sites: list[SiteFindings] = field(default_factory=list)
    top1: float = 0.0
    logits_free: float = 0.0
    logits_forced: float = 0.0
    distance_limit: float = DISTANCE
    logits_limit: float = LOGITS

    @property
    def flips(self) -> int:
        """Flipped bits of all sites."""
        return sum(site.flips for site in self.sites)

    @property
    def bits(self) -> int:
        """Compared bits of all sites."""
        return sum(site.bits for site in self.sites)

    def failures(self) -> list[str]:
        """What breaks a promise; empty when the artefact is valid."""
        found = []
        for site in self.sites:
            if site.wrong_bits:
                found.append(
                    f"{site.name}: {site.wrong_bits} packed bits are not the comparison of the "
                    "artefact's own values"
                )
            if max(site.distance, site.deviation) > self.distance_limit:
                found.append(
                    f"{site.name}: activations differ by {site.deviation:.2e} rms for the same "
                    f"bits, flips lie up to {site.distance:.2e} rms from their threshold, allowed "
                    f"are {self.distance_limit:.0e}"
                )
        if self.logits_forced > self.logits_limit:
            found.append(
                f"logits differ by {self.logits_forced:.2e} of the largest for the same bits, "
                f"allowed are {self.logits_limit:.0e}"
            )
        if self.top1 < 1.0:
            found.append(f"top-1 agreement is {100 * self.top1:.2f} %, not 100 %")
        return found


def validate(
    artefact: Module,
    module: nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """Compare a loaded artefact with the PyTorch module it was compiled from.

    Args:
        artefact: loaded, either form.
        module: the same network in PyTorch.
        inputs: one tensor per input, ``[images, ...]``.
        progress: called with the number of the image that begins and the number of images.

    Raises:
        ValidationError: the artefact does not have the binarisations of the module.
        InputError: the inputs do not fit.
    """
    count = int(inputs[0].shape[0])
    examples = [tensor[:1] for tensor in inputs]
    graph = trace_and_fold(module, examples, max_batch=2, dynamic=True)
    reference = Reference(graph)
    packs = artefact.manifest.binarisations
    findings = Findings(images=count)
    agree, free, forced = 0, [], []
    for index in range(count):
        if progress is not None:
            progress(index + 1, count)
        image = [tensor[index : index + 1] for tensor in inputs]
        arrays = [tensor.numpy() for tensor in image]
        ours = artefact(*arrays)
        expected = reference.evaluate(image).numpy()
        agree += int(ours.reshape(-1).argmax() == expected.reshape(-1).argmax())
        free.append(_relative(ours, expected))
        trace = artefact.trace(*arrays)
        bits = [_bits(trace[pack.kernel], pack) for pack in packs]
        if len(reference.sites) != len(packs):
            raise ValidationError(
                f"the artefact has {len(packs)} binarisations, the PyTorch graph has "
                f"{len(reference.sites)}: multi-bit activations and thresholds that feed float "
                "layers cannot be validated bit by bit"
            )
        replayed = reference.evaluate(image, [torch.from_numpy(b) for b in bits]).numpy()
        forced.append(_relative(ours, replayed))
        for number, (site, pack) in enumerate(zip(reference.sites, packs, strict=True)):
            if number == len(findings.sites):
                findings.sites.append(SiteFindings(site.name))
            _compare(findings.sites[number], site, pack, trace[pack.kernel], bits[number])
    findings.top1 = agree / count
    findings.logits_free, findings.logits_forced = max(free), max(forced)
    return findings


def _relative(ours: Array, expected: Array) -> float:
    return float(np.abs(ours - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def _bits(entry: TraceEntry, pack: Binarisation) -> Array:
    """The artefact's bits in PyTorch's layout, bool ``[1, C, H, W]`` or ``[1, C]``."""
    words = entry.output
    top, left, bottom, right = pack.pad
    if words.ndim == 4:
        words = words[:, top : words.shape[1] - bottom, left : words.shape[2] - right]
    holds = packing.unpack_codes(words, pack.channels, pack.bits, pack.groups) > 0
    return np.ascontiguousarray(_to_torch(holds))


def _compare(
    found: SiteFindings, site: Site, pack: Binarisation, entry: TraceEntry, bits: Array
) -> None:
    x, threshold = site.x.numpy(), np.broadcast_to(site.threshold.numpy(), site.x.shape)
    rms = max(float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))), 1e-30)
    flipped = bits != site.bits.numpy()
    found.bits += bits.size
    found.flips += int(flipped.sum())
    if flipped.any():
        found.distance = max(found.distance, float(np.abs(x - threshold)[flipped].max()) / rms)
    own = entry.inputs[0]
    if own is None:
        return
    own_x = _to_torch(own)
    found.deviation = max(found.deviation, float(np.abs(own_x - x).max()) / rms)
    exact = _COMPARE[pack.compare](own_x, _own_thresholds(entry, own, threshold))
    found.wrong_bits += int((exact != bits).sum())


def _own_thresholds(entry: TraceEntry, x: Array, torch_threshold: Array) -> Array:
    """The artefact's thresholds in PyTorch's layout; a constant one is PyTorch's own."""
    value = entry.inputs[1]
    if value is None:
        return torch_threshold
    if value.size == x.shape[-1]:  # one per channel, in whatever shape the kernel was given it
        value = value.reshape((1,) * (x.ndim - 1) + (-1,))
    else:
        value = value.reshape(value.shape[-x.ndim :])
    return _to_torch(value)


def _to_torch(value: Array) -> Array:
    return value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
