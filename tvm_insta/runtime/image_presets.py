"""How images become numbers for the networks of the common data sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Mean and standard deviation of a data set's training images, per channel, of pixels 0 .. 1.

    Empty tuples stand for 0 and 1.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


IMAGENET = Preset((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = Preset((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

PRESETS = {"imagenet": IMAGENET, "cifar10": CIFAR10, "unit": Preset()}
"""By name; "unit" only divides pixels by 255."""
NONE = "none"
"""The name for networks of which it is not known how images become their input."""
