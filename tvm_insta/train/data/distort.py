"""Distortion of training images, a whole batch at a time and on bytes."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def pad(pixels: torch.Tensor, padding: int) -> torch.Tensor:
    """Surround images with black pixels, once for all epochs.

    Args:
        pixels: `[M, 3, H, W]` uint8.
        padding: Pixels on each side.

    Returns:
        `[M, 3, H + 2 padding, W + 2 padding]` uint8.
    """
    return F.pad(pixels, (padding,) * 4) if padding else pixels


def crop_and_flip(
    padded: torch.Tensor, chosen: torch.Tensor, size: int, *, flip: bool, generator: torch.Generator
) -> torch.Tensor:
    """Cut a random window out of each image, and mirror half of them.

    Args:
        padded: `[M, 3, P, P]` uint8, P >= size.
        chosen: `[N]` int64, which images.
        size: Height and width of the window.
        flip: Whether to mirror.
        generator: Source of the randomness.

    Returns:
        `[N, 3, size, size]` uint8.
    """
    count, room = len(chosen), padded.shape[-1] - size + 1
    top = torch.randint(room, (count, 1), generator=generator)
    left = torch.randint(room, (count, 1), generator=generator)
    across = torch.arange(size).expand(count, size)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        across = torch.where(mirrored, size - 1 - across, across)
    rows = (top + torch.arange(size))[:, None, :, None]
    columns = (left + across)[:, None, None, :]
    return padded[chosen[:, None, None, None], torch.arange(3)[None, :, None, None], rows, columns]


def normalise(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Turn bytes into inputs.

    Args:
        pixels: `[N, 3, H, W]` uint8.
        mean: `[3]`, of values from 0 to 1.
        std: `[3]`.

    Returns:
        `[N, 3, H, W]` float32, channels last in memory.
    """
    scaled = (pixels.float() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)
