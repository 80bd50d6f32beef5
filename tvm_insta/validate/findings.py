"""What a validation found, and what of it breaks a promise."""

from __future__ import annotations

from dataclasses import dataclass, field

DISTANCE = 5e-5
"""Largest distance of a flipped activation from its threshold, in units of the activation's root
mean square. Both sides sum thousands of float32 products in different orders (7x7x3 in the stem,
up to 12,544 cubes in a moment): errors of some 1e-6 per layer add up along the residual stream."""

LOGITS = 1e-5
"""Largest difference of the logits for the same bits, relative to the largest logit: the same
rounding, through the last layers."""


@dataclass
class SiteFindings:
    """One binarisation, over all images.

    Attributes:
        name: of the binarisation in the PyTorch graph.
        bits: how many were compared; an activation of b bits counts 2**b - 1 comparisons.
        wrong_bits: packed bits that are not the comparison of the artefact's own values; must be 0.
        flips: bits that PyTorch would set otherwise, given the same bits in all earlier layers.
        distance: largest distance of a flip from its threshold, in units of the rms of x.
        deviation: largest difference from PyTorch's of an activation's distance from its threshold,
            in units of the rms of x.
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
        top1_forced: the same with the artefact's bits forced upon PyTorch.
        unexplained: images whose best class differs running free though no bit flipped.
        logits_free: largest difference of the logits, both running free, relative to the largest.
        logits_forced: the same with the artefact's bits forced upon PyTorch.
        distance_limit: see `DISTANCE`.
        logits_limit: see `LOGITS`.
        stem: numbers of the artefact's float layers; other than "fp32" they change the result by
            more than rounding, which is then told and not judged.
        storage: how the artefact stores images between kernels; "fp16" is not judged either.
        note: why bits were not compared, "" if they were.
    """

    images: int
    sites: list[SiteFindings] = field(default_factory=list)
    top1: float = 0.0
    top1_forced: float = 1.0
    unexplained: int = 0
    logits_free: float = 0.0
    logits_forced: float = 0.0
    distance_limit: float = DISTANCE
    logits_limit: float = LOGITS
    stem: str = "fp32"
    storage: str = "fp32"
    note: str = ""

    @property
    def flips(self) -> int:
        """Flipped bits of all sites."""
        return sum(site.flips for site in self.sites)

    @property
    def bits(self) -> int:
        """Compared bits of all sites."""
        return sum(site.bits for site in self.sites)

    @property
    def judged(self) -> bool:
        """Whether differences from PyTorch beyond rounding break a promise."""
        return self.stem == self.storage == "fp32"

    def failures(self) -> list[str]:
        """What breaks a promise; empty when the artefact is valid."""
        found = []
        for site in self.sites:
            if site.wrong_bits:
                found.append(
                    f"{site.name}: {site.wrong_bits} packed bits are not the comparison of the "
                    "artefact's own values"
                )
            if self.judged and max(site.distance, site.deviation) > self.distance_limit:
                found.append(
                    f"{site.name}: activations differ by {site.deviation:.2e} rms for the same "
                    f"bits, flips lie up to {site.distance:.2e} rms from their threshold, allowed "
                    f"are {self.distance_limit:.0e}"
                )
        if not self.judged:
            return found
        if self.logits_forced > self.logits_limit:
            found.append(
                f"logits differ by {self.logits_forced:.2e} of the largest for the same bits, "
                f"allowed are {self.logits_limit:.0e}"
            )
        if self.top1_forced < 1.0:
            found.append(
                f"top-1 agreement for the same bits is {100 * self.top1_forced:.2f} %, not 100 %"
            )
        if self.unexplained:
            found.append(
                f"{self.unexplained} images get another class than in PyTorch without a flipped bit"
            )
        return found
