"""What a validation found, and what of it breaks a promise."""

from __future__ import annotations

from dataclasses import dataclass, field

DISTANCE = 5e-5
"""Largest difference of a compared activation from PyTorch's for the same bits, in units of the
activation's root mean square, where PyTorch is not asked how large rounding is. Both sides sum
thousands of float32 products in different orders (7x7x3 in the stem, up to 12,544 cubes in a
moment): errors of some 1e-6 per layer. Where it is exceeded, see `rounding`."""

LOGITS = 1e-5
"""Largest difference of the output for the same bits, relative to the largest, likewise."""

HALF = 2.0**-12 * 20 * 3
"""The same for both with ``storage fp16``: 11 bits are kept, an activation is some times its root
mean square, and a few stored tensors are added up."""


DARK = 0.1
"""Part of the largest image's size that any image has at least, where rounding is judged."""

UNDECIDED, UNDECIDED_FEW, UNDECIDED_IMAGES = 1e-4, 3, 2
"""The largest share of a site's bits, and their number, that may flip within rounding in one image,
and in how many images. One number in a million lies that close to its threshold by chance; more do
where a sum cancels, as +-0.1 added up an even number of times: PyTorch then has the sign of its own
rounding. In a single image, one of zeros, whole channels may lie at their thresholds."""


@dataclass
class SiteFindings:
    """One binarisation, over all images.

    Attributes:
        name: module path and node of the level tensor in the PyTorch graph.
        bits: how many were compared; an activation of b bits counts 2**b - 1 comparisons.
        wrong_bits: packed codes that are not the comparison of the artefact's own values.
        wrong_levels: values that are not PyTorch's function of the artefact's own activations.
        zeros: values +1 where torch.sign gives 0, as ``sign_of_zero="+1"`` asks for.
        flips: comparisons that PyTorch decides otherwise, given the same bits in earlier layers.
        distance: how far activations had to be moved to explain the flips, in units of their rms.
        deviation: largest difference from PyTorch's of a compared activation, likewise.
        told: largest such difference behind layers in narrower numbers, which is not judged.
        failure: what broke a promise first, a clause; "" for nothing.
        judged: images whose bits were compared.
        narrow: what is compared comes straight from layers in bf16 or int8, which turn more bits.
        turned: images in which more comparisons flipped than chance explains, see `UNDECIDED`.
        size: largest rms of the compared activation over the images so far.
    """

    name: str
    bits: int = 0
    wrong_bits: int = 0
    wrong_levels: int = 0
    zeros: int = 0
    flips: int = 0
    distance: float = 0.0
    deviation: float = 0.0
    told: float = 0.0
    failure: str = ""
    judged: int = 0
    narrow: bool = False
    size: float = 0.0
    turned: int = 0

    @property
    def undecided(self) -> str:
        """Why PyTorch's own bits are no reference: too many of them are rounding; "" if not."""
        if self.narrow or self.turned < UNDECIDED_IMAGES:
            return ""
        return (
            f"{self.name}: {self.flips / self.bits:.2%} of its comparisons lie within rounding of "
            "equality, so PyTorch's own answer hangs on the order in which it adds: put a batch "
            "norm before it, or multiply by the scale behind the layer instead of in its weights"
        )

    def scale(self, rms: float) -> float:
        """What rounding is relative to: this image's rms, or a part of the largest one.

        Terms that cancel exactly in PyTorch leave rounding here: an image of zeros has no scale.
        """
        self.size = max(self.size, rms)
        return max(rms, DARK * self.size)

    def fail(self, clause: str) -> None:
        """Keep the first failure."""
        self.failure = self.failure or clause


@dataclass
class Findings:
    """What validation found.

    Attributes:
        images: how many were compared.
        sites: one entry per binarisation, in the order of the network.
        top1: share of images whose best class agrees, both running free.
        top1_forced: the same with the artefact's bits forced upon PyTorch.
        logits_free: largest difference of the output, both running free, relative to the largest.
        logits_forced: the same with the artefact's bits forced upon PyTorch.
        free_flips: comparisons that PyTorch decides otherwise running free, though no single step
            does, because rounding adds up from layer to layer; the first of each image.
        free_distance: how far activations had to be moved to explain them, in units of their rms.
        outputs_judged: images whose output for the same bits was compared.
        output_failure: what broke a promise at the output; "" for nothing.
        free_failure: what broke a promise running free; "" for nothing.
        not_judged: what could not be compared, and why, a sentence each.
        distance_limit: see `DISTANCE`.
        logits_limit: see `LOGITS`.
        stem: numbers of the artefact's float layers. What comes straight from a layer in other
            numbers than "fp32" is told and not judged; what comes from packed bits is judged.
        sign_of_zero: option of the artefact; "+1" changes zeros, which are counted.
        storage: how the artefact stores images between kernels; "fp16" widens the limits.
    """

    images: int
    sites: list[SiteFindings] = field(default_factory=list)
    top1: float = 0.0
    top1_forced: float = 1.0
    logits_free: float = 0.0
    logits_forced: float = 0.0
    free_flips: int = 0
    free_distance: float = 0.0
    outputs_judged: int = 0
    output_failure: str = ""
    free_failure: str = ""
    not_judged: list[str] = field(default_factory=list)
    distance_limit: float = DISTANCE
    logits_limit: float = LOGITS
    stem: str = "fp32"
    storage: str = "fp32"
    sign_of_zero: str = "exact"

    @property
    def flips(self) -> int:
        """Flipped bits of all sites."""
        return sum(site.flips for site in self.sites)

    @property
    def bits(self) -> int:
        """Compared bits of all sites."""
        return sum(site.bits for site in self.sites)

    @property
    def undecided(self) -> list[str]:
        """Binarisations that PyTorch itself decides by rounding, a sentence each."""
        if self.storage != "fp32":  # images rounded to 11 bits turn more comparisons
            return []
        return [site.undecided for site in self.sites if site.undecided]

    @property
    def verdict(self) -> str:
        """One of "valid", "invalid" and "not validated": a part could not be judged."""
        if self.failures():
            return "invalid"
        return "not validated" if self.not_judged else "valid"

    def leave_out(self, reason: str) -> None:
        """Note once that a part is not judged."""
        if reason not in self.not_judged:
            self.not_judged.append(reason)

    def failures(self) -> list[str]:
        """What breaks a promise, first layer first; empty when nothing does."""
        found = []
        for site in self.sites:
            if site.wrong_bits:
                found.append(
                    f"{site.name}: {site.wrong_bits} packed codes are not the comparison of the "
                    "artefact's own values"
                )
            if site.failure:
                found.append(f"{site.name}: {site.failure}")
        return found + [text for text in (self.output_failure, self.free_failure) if text]
