"""Labelled images as tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

# Images that are looked at to tell data sets apart, and for mean and deviation.
_SAMPLE = 2000


@dataclass(frozen=True)
class Images:
    """Labelled images of one size.

    Attributes:
        pixels: `[M, 3, S, S]` uint8, RGB; may be a mapped file.
        labels: `[M]` int64.
        classes: Names; a label is an index into them.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    @property
    def size(self) -> int:
        """Height and width."""
        return int(self.pixels.shape[-1])

    def limited(self, count: int) -> Images:
        """Keep the first `count` images of each class, in order.

        Args:
            count: At least 1.
        """
        of_each = [
            torch.nonzero(self.labels == n).flatten()[:count] for n in range(len(self.classes))
        ]
        kept = torch.cat(of_each).sort().values
        return Images(self.pixels[kept], self.labels[kept], self.classes)

    def identity(self) -> str:
        """Tell data sets apart, wherever they lie: classes, labels and a sample of the bytes."""
        digest = hashlib.sha256(repr((tuple(self.pixels.shape), self.classes)).encode())
        digest.update(self.labels.numpy().tobytes())
        digest.update(self._sample().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def statistics(self) -> tuple[list[float], list[float]]:
        """Give mean and standard deviation of each colour, of values from 0 to 1."""
        sample = self._sample().float() / 255
        mean, std = sample.mean(dim=(0, 2, 3)), sample.std(dim=(0, 2, 3))
        # Images of one colour have no deviation to divide by.
        return (
            [round(float(value), 4) for value in mean],
            [round(max(float(value), 1e-3), 4) for value in std],
        )

    def _sample(self) -> torch.Tensor:
        return self.pixels[:: -(-len(self) // _SAMPLE)]
