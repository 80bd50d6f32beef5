"""The lines that the validate command prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm_insta.validate import Findings


def findings_lines(findings: Findings, *, per_layer: bool) -> Iterator[str]:
    """Say what was compared and how far it agrees."""
    named = (("stem", findings.stem), ("storage", findings.storage))
    chosen = ", ".join(f"{what} {value}" for what, value in named if value != "fp32")
    if chosen:
        told = "what comes straight from these layers is told below and not judged"
        wider = "limits are those of stored 16-bit numbers"
        parts = [told] if findings.stem != "fp32" else []
        parts += [wider] if findings.storage != "fp32" else []
        yield f"{chosen}: {'; '.join(parts)}; what comes from packed bits is judged"
    if findings.sites:
        yield from _bit_lines(findings)
    yield (
        f"output: differs by at most {findings.logits_forced:.1e} of the largest for the same bits"
        f" (allowed {findings.logits_limit:.0e}, or what rounding makes of it), "
        f"{findings.logits_free:.1e} running free"
    )
    yield (
        f"top-1 agreement: {100 * findings.top1:.2f} % of {findings.images} running free, "
        f"{100 * findings.top1_forced:.2f} % for the same bits"
    )
    if per_layer and findings.sites:
        width = max(len(site.name) for site in findings.sites) + 2
        yield f"{'binarisation':<{width}}{'bits':>12}{'flips':>8}{'distance':>11}{'deviation':>11}"
        for site in findings.sites:
            yield (
                f"{site.name:<{width}}{site.bits:>12,}{site.flips:>8}{site.distance:>11.1e}"
                f"{max(site.deviation, site.told):>11.1e}"
            )


def _bit_lines(findings: Findings) -> Iterator[str]:
    wrong = sum(site.wrong_bits for site in findings.sites)
    levels = sum(site.wrong_levels for site in findings.sites)
    zeros = sum(site.zeros for site in findings.sites)
    deviation = max(site.deviation for site in findings.sites)
    told = max(site.told for site in findings.sites)
    distance = max(site.distance for site in findings.sites)
    limit = f"(allowed {findings.distance_limit:.0e}, or what rounding makes of it)"
    exact = "bit-exact" if wrong == 0 else f"WRONG in {wrong} codes"
    own = "PyTorch's" if levels == 0 else f"NOT PyTorch's in {levels} elements"
    yield (
        f"integers: {findings.bits:,} packed bits {exact} for the artefact's own activations, "
        f"their levels {own}"
    )
    yield (
        f"activations: differ from PyTorch's for the same bits by at most {deviation:.1e} rms "
        f"{limit}"
    )
    if told:
        yield f"activations straight from layers in narrower numbers: by at most {told:.1e} rms"
    yield (
        f"flipped bits: {findings.flips} of {findings.bits:,}, each within {distance:.1e} rms of "
        f"its threshold {limit}"
    )
    if findings.free_flips:
        yield (
            f"running free: {findings.free_flips} more where the rounding of several layers adds "
            f"up, each within {findings.free_distance:.1e} rms of its threshold"
        )
    if zeros:
        yield f"zeros: {zeros:,} signs of 0 are +1, as --sign-of-zero +1 asks for"
