"""Distortion of training images, a whole batch at a time and on bytes."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def placement(count: int, padding: int, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Draw where images are moved to, and which are mirrored.

    Args:
        count: N.
        padding: Pixels by which an image is moved at most, in each direction.
        flip: Whether half of them are mirrored.
        generator: Source of the randomness.

    Returns:
        `[N, 3]` int64: down and across, 0 to 2 padding, and 1 where mirrored.
    """
    room = 2 * padding + 1
    top = torch.randint(room, (count, 1), generator=generator)
    left = torch.randint(room, (count, 1), generator=generator)
    return torch.cat([top, left, _mirrored(count, flip, generator)], dim=1)


def _mirrored(count: int, flip: bool, generator: torch.Generator) -> torch.Tensor:
    if not flip:
        return torch.zeros((count, 1), dtype=torch.int64)
    return (torch.rand((count, 1), generator=generator) < 0.5).long()


def shift(pixels: torch.Tensor, padding: int, placed: torch.Tensor) -> torch.Tensor:
    """Move images, filling with black, and mirror some of them.

    Args:
        pixels: `[N, 3, S, S]` uint8.
        padding: As for `placement`.
        placed: `[N, 3]`, of `placement`.

    Returns:
        `[N, 3, S, S]` uint8.
    """
    count, size = len(pixels), pixels.shape[-1]
    padded = F.pad(pixels, (padding,) * 4)
    top, left, mirrored = placed[:, :1], placed[:, 1:2], placed[:, 2:]
    across = torch.arange(size).expand(count, size)
    across = torch.where(mirrored > 0, size - 1 - across, across)
    rows = (top + torch.arange(size))[:, None, :, None]
    columns = (left + across)[:, None, None, :]
    images = torch.arange(count)[:, None, None, None]
    return padded[images, torch.arange(3)[None, :, None, None], rows, columns]


def windows(count: int, least_area: float, flip: bool, generator: torch.Generator) -> torch.Tensor:
    """Draw windows of random size, shape and place, as Inception's training does.

    Args:
        count: N.
        least_area: Smallest share of the image that a window covers.
        flip: Whether half of them are mirrored.
        generator: Source of the randomness.

    Returns:
        `[N, 2, 3]` float32, what `torch.nn.functional.affine_grid` takes.
    """

    def draw(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area = draw(least_area, 1.0)
    ratio = torch.exp(draw(math.log(3 / 4), math.log(4 / 3)))
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    across, down = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    mirrored = _mirrored(count, flip, generator).squeeze(1) > 0
    zero = torch.zeros(count)
    rows = [torch.where(mirrored, -width, width), zero, across, zero, height, down]
    return torch.stack(rows, dim=1).view(count, 2, 3)


def cut_windows(pixels: torch.Tensor, drawn: torch.Tensor, size: int) -> torch.Tensor:
    """Scale a window of each image to one size (bilinear).

    Args:
        pixels: `[N, 3, P, P]` uint8.
        drawn: `[N, 2, 3]`, of `windows`.
        size: Height and width of the result.

    Returns:
        `[N, 3, size, size]` float32, 0 to 255.
    """
    grid = F.affine_grid(drawn, [len(pixels), 3, size, size], align_corners=False)
    # The border's pixel stands for what lies half a pixel outside.
    return F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)


def centre(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Cut the middle out of images.

    Args:
        pixels: `[N, 3, P, P]`, P >= size.
        size: Height and width of the result.

    Returns:
        `[N, 3, size, size]`, a view.
    """
    start = (pixels.shape[-1] - size) // 2
    return pixels[:, :, start : start + size, start : start + size]


def normalise(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Turn bytes into inputs.

    Args:
        pixels: `[N, 3, H, W]` uint8, or float32 from 0 to 255.
        mean: `[3]`, of values from 0 to 1.
        std: `[3]`.

    Returns:
        `[N, 3, H, W]` float32, channels last in memory.
    """
    scaled = (pixels.float() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)
