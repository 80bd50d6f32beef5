"""What a validation found, and what of it breaks a promise."""

from __future__ import annotations

from dataclasses import dataclass, field

DISTANCE = 5e-5
"""Largest distance of a flipped activation from its threshold, and largest difference of an
activation for the same bits, in units of the activation's root mean square. Both sides sum
thousands of float32 products in different orders (7x7x3 in the stem, up to 12,544 cubes in a
moment): errors of some 1e-6 per layer."""

LOGITS = 1e-5
"""Largest difference of the logits for the same bits, relative to the largest logit: the same
rounding, through the last layers."""

NARROW = {"bf16": 0.03, "int8": 0.15, "fp16": 0.005}
"""The same two limits where float layers compute, or images are stored, in narrower numbers, for
the root mean square of the differences: bfloat16 keeps 8 bits, an 8-bit code 7 of the largest
number (and clips what calibration has not seen), float16 11."""


@dataclass
class SiteFindings:
    """One binarisation, over all images.

    Attributes:
        name: of the level tensor in the exported graph.
        bits: how many were compared; an activation of b bits counts 2**b - 1 comparisons.
        wrong_bits: packed bits that are not the comparison of the artefact's own values; must be 0.
        flips: activations to which PyTorch would give another value, given the same earlier bits.
        far: flips that do not lie within the limit of a threshold; must be 0.
        distance: how far the activations must move for PyTorch to give the flipped values, in units
            of their rms.
        deviation: largest difference of a compared activation from PyTorch's, in units of the rms.
        spread: root mean square of these differences, in the same units.
    """

    name: str
    bits: int = 0
    wrong_bits: int = 0
    flips: int = 0
    far: int = 0
    distance: float = 0.0
    deviation: float = 0.0
    spread: float = 0.0


@dataclass
class Findings:
    """What validation found.

    Attributes:
        images: how many were compared.
        sites: one entry per binarisation.
        top1: share of images whose best class agrees, both running free.
        top1_forced: the same with the artefact's bits forced upon PyTorch.
        unexplained: images whose best class differs running free though no bit flipped.
        logits_free: largest difference of the output, both running free, relative to the largest.
        logits_forced: the same with the artefact's bits forced upon PyTorch.
        spread_forced: root mean square of the latter.
        wrong_outputs: elements of the output that differ for the same bits by more than the limit,
            and by more than rounding can move them.
        nan_differs: whether NaN stands in other places.
        distance_limit: see `DISTANCE`.
        logits_limit: see `LOGITS`.
        stem: numbers of the artefact's float layers.
        storage: how the artefact stores images between kernels.
        not_judged: what could not be compared, in sentences; empty if everything was.
    """

    images: int
    sites: list[SiteFindings] = field(default_factory=list)
    top1: float = 0.0
    top1_forced: float = 1.0
    unexplained: int = 0
    logits_free: float = 0.0
    logits_forced: float = 0.0
    spread_forced: float = 0.0
    wrong_outputs: int = 0
    nan_differs: bool = False
    distance_limit: float = DISTANCE
    logits_limit: float = LOGITS
    stem: str = "fp32"
    storage: str = "fp32"
    not_judged: list[str] = field(default_factory=list)

    @property
    def flips(self) -> int:
        """Flipped activations of all sites."""
        return sum(site.flips for site in self.sites)

    @property
    def bits(self) -> int:
        """Compared bits of all sites."""
        return sum(site.bits for site in self.sites)

    @property
    def narrow(self) -> float:
        """The limit of the rms of differences in narrow numbers, 0.0 for float32."""
        return max(NARROW.get(self.stem, 0.0), NARROW.get(self.storage, 0.0))

    def failures(self) -> list[str]:
        """What breaks a promise; empty when the artefact is valid."""
        found = [line for site in self.sites for line in self._site_failures(site)]
        if self.nan_differs:
            found.append("the output has NaN in other places than PyTorch's")
        if self.narrow:
            if not self.spread_forced <= self.narrow:
                found.append(
                    f"outputs differ by {self.spread_forced:.2e} rms for the same bits, allowed "
                    f"are {self.narrow:g} with stem {self.stem} and storage {self.storage}"
                )
            return found
        if self.wrong_outputs:
            found.append(
                f"{self.wrong_outputs} outputs differ for the same bits, by up to "
                f"{self.logits_forced:.2e} of the largest, allowed are {self.logits_limit:.0e}"
            )
        if self.unexplained:
            found.append(
                f"{self.unexplained} images get another class than in PyTorch without a flipped bit"
            )
        return found

    def _site_failures(self, site: SiteFindings) -> list[str]:
        found = []
        if site.wrong_bits:
            found.append(
                f"{site.name}: {site.wrong_bits} packed bits are not the comparison of the "
                "artefact's own values"
            )
        if self.narrow:
            if not site.spread <= self.narrow:
                found.append(
                    f"{site.name}: activations differ by {site.spread:.2e} rms for the same bits, "
                    f"allowed are {self.narrow:g} with stem {self.stem} and storage {self.storage}"
                )
            return found
        if not site.deviation <= self.distance_limit:
            found.append(
                f"{site.name}: activations differ by {site.deviation:.2e} rms for the same bits, "
                f"allowed are {self.distance_limit:.0e}"
            )
        if site.far:
            found.append(
                f"{site.name}: {site.far} of {site.flips} flipped activations lie further than "
                f"{self.distance_limit:.0e} rms from a threshold"
            )
        return found

    @property
    def first_failing(self) -> str | None:
        """The first tensor that breaks a promise; None where only the output does, or nothing."""
        return next((site.name for site in self.sites if self._site_failures(site)), None)

    @property
    def verdict(self) -> str:
        """One of "valid", "invalid" and "not validated"."""
        if self.failures():
            return "invalid"
        return "not validated" if self.not_judged else "valid"
