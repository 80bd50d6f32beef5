"""Weights of few values as sums of +-1 weights.

    W[o, ...] = sum_p factor[p][o] * B[p][o, ...] + offset[o]        with B[p] in {-1, +1}

A 1-bit weight has one plane. Ternary weights (-s, 0, +s) are half the sum of two; weights of an
even grid of 2**b values take b. Uneven ones take two planes where there are three values, as in
trained ternary quantisation (-n, 0, p), or four of which the outer gaps are equal, as in LQ-Nets
(a * B1 + b * B2). Where values are not symmetrical about 0 there is an offset, which multiplies the
sum of the activations. Every factor is one number per output channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tvm_insta.frontend.layers import Reason, WhyFloat
from tvm_insta.frontend.torch.levels.ordered import distinct

_MOST_BITS = 4
_SPREAD = 1e-4
"""Largest distance of a weight from its grid, relative to the grid's step. Straight-through sums
``(hard - soft) + soft`` round at the magnitude of the latent weight, which may be a thousand
times the mean; real-valued weights are off by a large part of a step."""
_MEAN_SPREAD = 3e-6
"""The same for the average weight: the layer's sums then agree to float rounding."""


@dataclass(frozen=True)
class Planes:
    """A weight as a sum of +-1 weights.

    Attributes:
        signs: one bool tensor ``[O, ...]`` per plane, True = +1.
        factors: one tensor ``[O]`` float64 per plane.
        offset: ``[O]`` float64.
        bits: of a weight; ternary weights have 2.
    """

    signs: tuple[torch.Tensor, ...]
    factors: tuple[torch.Tensor, ...]
    offset: torch.Tensor
    bits: int

    @property
    def single(self) -> bool:
        """Whether the weight is one plane and nothing else."""
        return len(self.signs) == 1 and not bool(self.offset.any())


def decompose(weight: torch.Tensor) -> Planes | WhyFloat:
    """Write ``[O, ...]`` float32 weights as planes, or say why they cannot be."""
    flat = weight.detach().reshape(weight.shape[0], -1).to(torch.float64)
    if not bool(torch.isfinite(flat).all()):
        return WhyFloat(Reason.REAL_WEIGHTS, "its weights hold NaN or infinity")
    grid = _grid(flat)
    if isinstance(grid, WhyFloat):
        return _two_planes(weight, flat) or _input_scales(weight) or grid
    return _even(weight, flat, *grid)


def _even(
    weight: torch.Tensor,
    flat: torch.Tensor,
    lowest: torch.Tensor,
    step: torch.Tensor,
    codes: torch.Tensor,
    count: int,
) -> Planes | WhyFloat:
    """Planes of weights on an even grid, see `_grid`."""
    shape = weight.shape
    if count == 1:
        return _magnitudes(flat, shape)
    if count == 3 and bool(((lowest + step).abs() <= _SPREAD * step).all()):
        halves = step / 2
        signs = tuple((codes >= level).reshape(shape) for level in (1, 2))
        return Planes(signs, (halves, halves), torch.zeros_like(step), 2)
    bits = (count - 1).bit_length()
    if bits > _MOST_BITS:  # else powers of two: ratios of other factors would be rounded
        return _two_planes(weight, flat) or WhyFloat(
            Reason.MANY_WEIGHT_LEVELS,
            f"its weights have {count} evenly spaced values, but at most {2**_MOST_BITS} are "
            "packed",
        )
    signs = tuple(((codes >> plane) & 1).bool().reshape(shape) for plane in range(bits))
    factors = tuple(step * 2.0 ** (plane - 1) for plane in range(bits))
    offset = lowest + step * (2**bits - 1) / 2
    return Planes(signs, factors, torch.where(offset.abs() <= _SPREAD * step, 0.0, offset), bits)


def _two_planes(weight: torch.Tensor, flat: torch.Tensor) -> Planes | None:
    """Planes of weights with three values a channel, or four with equal outer gaps; else None."""
    rows, lows, highs, offsets = [], [], [], []
    for row in flat:
        exact = distinct(row)  # any three numbers have planes, however near each other they are
        values = exact if len(exact) <= 3 else _distinct(row)
        if values is None or len(values) > 4:
            return None
        v = values.tolist()
        v += [v[0] + 1.0] * (len(v) == 1)  # a second one that no weight takes
        if len(v) < 4:  # codes 0, 1, 3 of (lower plane, upper plane): 00, 10, 11
            codes = torch.tensor([0, 1, 3] if len(v) == 3 else [0, 3])
            low, high = (v[1] - v[0], v[2] - v[1]) if len(v) == 3 else (v[1] - v[0], 0.0)
        else:  # 00, 10, 01, 11
            codes = torch.tensor([0, 1, 2, 3])
            low, high = v[1] - v[0], v[2] - v[0]
        held = torch.tensor(v, dtype=torch.float64)
        nearest = (row[:, None] - held).abs().argmin(1)
        code = codes[nearest]
        made = v[0] + low * (code & 1) + high * (code >> 1)
        size = row.abs().max().clamp_min(1e-300)
        if not _on_grid((made - row).abs() / size, torch.tensor(True)):
            return None
        rows.append(code)
        lows.append(low)
        highs.append(high)
        offsets.append(v[0] + (low + high) / 2)
    codes = torch.stack(rows)
    signs = tuple(((codes >> plane) & 1).bool().reshape(weight.shape) for plane in range(2))
    low, high, offset = (torch.tensor(x, dtype=torch.float64) for x in (lows, highs, offsets))
    size = flat.abs().amax(1)
    offset = torch.where(offset.abs() <= _SPREAD * size, 0.0, offset)
    return Planes(signs, (low / 2, high / 2), offset, 2)


def _input_scales(weight: torch.Tensor) -> WhyFloat | None:
    """The reason where each input channel, or pair of channels, has a magnitude of its own."""
    out, channels = weight.shape[:2]
    wide = weight.detach().to(torch.float64).reshape(out, channels, -1).abs()
    for each, count, whole in (
        ("each input channel", channels, wide.transpose(0, 1).reshape(channels, -1)),
        ("each pair of an output and an input channel", out * channels, wide.flatten(0, 1)),
    ):
        scale = whole.mean(1, keepdim=True)
        if whole.shape[1] == 1 or not _on_grid(
            (whole - scale).abs() / scale.clamp_min(1e-300), scale > 0
        ):
            continue
        if _distinct(scale[:, 0]) is not None:  # few numbers: rows of the same uneven levels
            return None
        return WhyFloat(
            Reason.INPUT_CHANNEL_SCALES,
            f"its weights are +-1 times {count} numbers, one for {each}; scales of output channels "
            "are packed",
        )
    return None


def _magnitudes(flat: torch.Tensor, shape: torch.Size) -> Planes:
    """One magnitude per output channel; an all-zero channel has the factor 0."""
    scale = flat.abs().mean(1)
    return Planes(((flat >= 0).reshape(shape),), (scale,), torch.zeros_like(scale), 1)


def _grid(flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int] | WhyFloat:
    """Lowest value and step ``[O]``, codes ``[O, K]`` and number of values, of an even grid.

    A step that most channels share is that of all, since a channel need not use every value.
    """
    magnitude = flat.abs()
    scale = magnitude.mean(1, keepdim=True)
    if _on_grid((magnitude - scale).abs() / scale.clamp_min(1e-300), scale > 0):
        return scale[:, 0], scale[:, 0], torch.zeros_like(flat, dtype=torch.int64), 1
    lowest, step, count = flat.amin(1), torch.zeros(len(flat), dtype=torch.float64), 1
    for channel, row in enumerate(flat):
        values = _distinct(row)
        if values is None or len(values) * 2 > max(len(row), 4):
            return WhyFloat(
                Reason.REAL_WEIGHTS,
                f"its weights are real-valued ({len(distinct(row.abs()))} distinct magnitudes in "
                f"output channel {channel})",
            )
        if len(values) > 1:
            step[channel] = _step(values[-1] - values[0], values.diff().min())
    lowest, step = _common(flat, lowest, step)
    wide = torch.where(step > 0, step, 1.0)
    position = (flat - lowest[:, None]) / wide[:, None]
    codes = position.round().to(torch.int64)
    if not _on_grid((position - codes).abs(), (step > 0)[:, None]):
        return WhyFloat(
            Reason.REAL_WEIGHTS, "its weights have few values, but they are not evenly spaced"
        )
    count = int(codes.max()) + 1
    return lowest, wide, codes, count


def _common(
    flat: torch.Tensor, lowest: torch.Tensor, step: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One grid for all channels where one fits, else each channel's own.

    A channel of ternary weights may lack a value: its own grid would be another one.
    """
    low, high = float(flat.min()), float(flat.max())
    least = float(step[step > 0].min()) if bool((step > 0).any()) else 0.0
    if least and (high - low) / least < 2**_MOST_BITS:
        least = float(_step(flat.max() - flat.min(), torch.tensor(least, dtype=torch.float64)))
        position = (flat - low) / least
        if _on_grid((position - position.round()).abs(), torch.tensor(True)):
            return torch.full_like(lowest, low), torch.full_like(step, least)
    # A channel's grid is symmetrical about 0 where its values are: (-s, 0) is part of (-s, 0, s).
    top = flat.abs().amax(1)
    symmetric = (top[:, None] - flat.abs()).div(top[:, None].clamp_min(1e-300))
    ternary = _on_grid(torch.minimum(symmetric, 1 - symmetric), (top > 0)[:, None])
    return (-top, top) if ternary else (lowest, step)


def _step(whole: torch.Tensor, rough: torch.Tensor) -> torch.Tensor:
    """The step of a grid from its ends: the smallest difference has the largest rounding."""
    return whole / (whole / rough).round()


def _on_grid(distance: torch.Tensor, counts: torch.Tensor) -> bool:
    """Whether distances from a grid, in steps, are those of rounding; where ``counts``."""
    distance = torch.where(counts, distance, 0.0)
    return bool(distance.max() <= _SPREAD) and bool(distance.mean() <= _MEAN_SPREAD)


def _distinct(row: torch.Tensor) -> torch.Tensor | None:
    """The values of a row, those that rounding has moved apart taken as one; None if too many."""
    ordered = distinct(row)
    spread = _SPREAD * float(ordered.abs().max().clamp_min(1e-300))
    starts = torch.cat([torch.ones(1, dtype=torch.bool), ordered.diff() > spread])
    return ordered[starts] if int(starts.sum()) <= 2**_MOST_BITS else None
