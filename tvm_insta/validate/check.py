"""The comparison of an artefact with PyTorch, image by image and binarisation by binarisation.

Three things are established for every image:

1. The packed bits are exactly the comparisons of the artefact's own activations and thresholds.
2. With the artefact's bits forced upon PyTorch, every activation that is compared agrees to within
   float rounding; a single wrong integer in a binary convolution would move it by a whole step.
   Where PyTorch's comparison then gives another bit, the activation lies that close to its
   threshold: each such flip is counted, and its distance is checked.
3. The logits agree: within rounding for the same bits; and running free, the best class is another
   one only where a bit flipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tvm_insta.frontend import trace_and_fold
from tvm_insta.runtime import Module
from tvm_insta.validate.findings import Findings, SiteFindings
from tvm_insta.validate.packed import Packed, read_packed
from tvm_insta.validate.reference import Reference, Site

Array = npt.NDArray[Any]


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
        InputError: the inputs do not fit.
    """
    count = int(inputs[0].shape[0])
    examples = [tensor[:1] for tensor in inputs]
    batch = min(2, artefact.manifest.max_batch)  # a module may have been exported for one image
    reference = Reference(trace_and_fold(module, examples, max_batch=batch, dynamic=True))
    options = artefact.manifest.options
    stem, storage = (str(options.get(name, "fp32")) for name in ("stem", "storage"))
    findings = Findings(images=count, stem=stem, storage=storage)
    agree, agree_forced, free, forced = 0, 0, [], []
    for index in range(count):
        if progress is not None:
            progress(index + 1, count)
        image = [tensor[index : index + 1] for tensor in inputs]
        ours = artefact(*[tensor.numpy() for tensor in image])
        expected = reference.evaluate(image).numpy()
        same = _best(ours) == _best(expected)
        agree += same
        free.append(_relative(ours, expected))
        flips = findings.flips
        replayed = _replay(artefact, reference, image, findings)
        if replayed is None:
            replayed = expected
        else:
            forced.append(_relative(ours, replayed))
        agree_forced += _best(ours) == _best(replayed)
        findings.unexplained += not same and findings.flips == flips
    findings.top1, findings.top1_forced = agree / count, agree_forced / count
    findings.logits_free, findings.logits_forced = max(free), max(forced, default=0.0)
    return findings


def _replay(
    artefact: Module, reference: Reference, image: Sequence[torch.Tensor], findings: Findings
) -> Array | None:
    """Force the artefact's bits upon PyTorch, compare on the way; returns PyTorch's output."""
    packs = artefact.manifest.binarisations
    comparisons = sum(2**pack.bits - 1 for pack in packs)
    if len(reference.sites) != comparisons:
        findings.note = (
            f"the artefact packs {comparisons} comparisons, PyTorch makes {len(reference.sites)}: "
            "some feed float layers, so bits are not compared one by one"
        )
        return None
    trace = artefact.trace(*[tensor.numpy() for tensor in image])
    packed = [read_packed(trace[pack.kernel], pack) for pack in packs]
    bits = [torch.from_numpy(level) for each in packed for level in each.levels]
    output = reference.evaluate(image, bits).numpy()
    start = 0
    for number, each in enumerate(packed):
        if number == len(findings.sites):
            findings.sites.append(SiteFindings(reference.sites[start].name))
        for level in range(len(each.levels)):
            _compare(findings.sites[number], reference.sites[start + level], each, level)
        start += len(each.levels)
    return output


def _best(logits: Array) -> int:
    return int(logits.reshape(-1).argmax())


def _relative(ours: Array, expected: Array) -> float:
    return float(np.abs(ours - expected).max() / max(float(np.abs(expected).max()), 1e-30))


def _compare(found: SiteFindings, site: Site, packed: Packed, level: int) -> None:
    x, threshold = site.x.numpy(), np.broadcast_to(site.threshold.numpy(), site.x.shape)
    rms = max(float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))), 1e-30)
    bits = packed.levels[level]
    flipped = bits != site.bits.numpy()
    found.bits += bits.size
    found.flips += int(flipped.sum())
    if flipped.any():
        found.distance = max(found.distance, float(np.abs(x - threshold)[flipped].max()) / rms)
    # An offset may have moved from the activation into the threshold: their difference is the same.
    deviation = np.abs((packed.x - packed.thresholds[level]) - (x - threshold)).max()
    found.deviation = max(found.deviation, float(deviation) / rms)
    found.wrong_bits += packed.wrong_bits(level)
