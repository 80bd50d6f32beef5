"""The lines that the validate command prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm_insta.validate import Findings


def findings_lines(findings: Findings, *, per_layer: bool) -> Iterator[str]:
    """Say what was compared and how far it agrees."""
    if findings.narrow:
        named = (("stem", findings.stem), ("storage", findings.storage))
        chosen = ", ".join(f"{what} {value}" for what, value in named if value != "fp32")
        yield (
            f"{chosen}: differences of up to {findings.narrow:g} rms are what these numbers do; "
            "bits are packed exactly all the same"
        )
    if findings.sites:
        yield from _bit_lines(findings)
    yield (
        f"logits: differ by at most {findings.logits_forced:.1e} of the largest for the same bits"
        f"{_allowed(findings, findings.logits_limit)}, {findings.logits_free:.1e} running free"
        if findings.sites
        else f"logits: differ by at most {findings.logits_free:.1e} of the largest"
    )
    yield (
        f"top-1 agreement: {100 * findings.top1:.2f} % of {findings.images} running free, "
        f"{100 * findings.top1_forced:.2f} % for the same bits"
    )
    if per_layer and findings.sites:
        yield f"{'binarisation':<24}{'bits':>12}{'flips':>8}{'distance':>11}{'deviation':>11}"
        for site in findings.sites:
            yield (
                f"{site.name:<24}{site.bits:>12,}{site.flips:>8}{site.distance:>11.1e}"
                f"{site.deviation:>11.1e}"
            )


def _bit_lines(findings: Findings) -> Iterator[str]:
    wrong = sum(site.wrong_bits for site in findings.sites)
    distance = max(site.distance for site in findings.sites)
    deviation = max(site.deviation for site in findings.sites)
    exact = "bit-exact" if wrong == 0 else f"WRONG in {wrong} bits"
    yield f"integers: {findings.bits:,} packed bits {exact} for the artefact's own activations"
    yield (
        f"activations: differ from PyTorch's for the same bits by at most {deviation:.1e} rms"
        f"{_allowed(findings, findings.distance_limit)}"
    )
    yield (
        f"flipped bits: {findings.flips} of {findings.bits:,}, each within {distance:.1e} rms of "
        f"its threshold{_allowed(findings, findings.distance_limit)}"
    )


def _allowed(findings: Findings, limit: float) -> str:
    return f" (allowed {limit:.0e})" if not findings.narrow else ""
