"""Parts of random networks: quantisers, what moves levels about, weights, as strangers write them.

A part is a name, which a failure prints, and a function of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tests.end_to_end.random_numbers import Numbers


@dataclass(frozen=True)
class Part:
    """One step of a network."""

    name: str
    run: Callable[[torch.Tensor], torch.Tensor]


def _channels(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``[C]`` that broadcasts with x: ``[N, C, ...]``, or the last dimension of ``[N, T, C]``."""
    return values if x.ndim == 2 else values.reshape(-1, *[1] * (x.ndim - 2))


def _masked(x: torch.Tensor) -> torch.Tensor:
    y = -torch.ones_like(x)
    y[x >= 0] = 1.0
    return y


def quantiser(n: Numbers, x: torch.Tensor) -> Part:
    """A function of x with few values: a spelling of sign, or of a quantiser of 1 to 4 bits."""
    t, s = n.number(), n.scale()
    least, steps = n.choose([0, -1, -2, -4, -3]), n.choose([1, 2, 3, 7, 15])
    per = _channels(n.tensor(x.shape[1]), x)
    ends = sorted(n.tensor(n.choose([2, 3, 5])).tolist())
    grid = n.choose([4.0, 2.0, 1.0]) if n.exact else n.choose([3.0, 7.0, 4.0])

    def uniform(x: torch.Tensor) -> torch.Tensor:
        return torch.round(torch.clamp(x / s, least, least + steps)) * s

    def counted(x: torch.Tensor) -> torch.Tensor:
        total = (x >= ends[0]).float()
        for end in ends[1:]:
            total = total + (x >= end).float()
        return total

    def estimator(x: torch.Tensor) -> torch.Tensor:
        soft = torch.clamp(x, -1.0, 1.0)
        return (torch.sign(x) - soft).detach() + soft

    options: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "sign": torch.sign,
        "where ge": lambda x: torch.where(x >= 0, 1.0, -1.0),
        f"where lt {t}": lambda x: torch.where(x < t, -1.0, 1.0),
        f"gt {t} * 2 - 1": lambda x: (x > t).float() * 2 - 1,
        f"bit ge {t}": lambda x: (x >= t).float(),
        f"not (x <= {t})": lambda x: torch.logical_not(x <= t).to(torch.float32),
        "1 - 2 * (x < 0)": lambda x: 1 - 2 * (x < 0).float(),
        "masked": _masked,
        "sign of relu": lambda x: torch.sign(F.relu(x)),
        "sign of hardtanh": lambda x: torch.sign(F.hardtanh(x)),
        "sign with offset": lambda x: torch.sign(x + per),
        "where ge per channel": lambda x: torch.where(x >= per, s, -s),
        "values per side": lambda x: torch.where(x > per, 1.0, -0.5),
        "dead zone": lambda x: torch.where(x.abs() <= s, torch.zeros_like(x), torch.sign(x)),
        "two signs": lambda x: torch.sign(x - s) + torch.sign(x + s),
        f"grid of {steps + 1} from {least}": uniform,
        "counted": counted,
        "dorefa": lambda x: torch.round(torch.clamp(x, 0.0, 1.0) * grid) / grid,
        "floor": lambda x: torch.clamp(torch.floor(x + 0.5), -2.0, 1.0),
        "straight through": estimator,
        "straight through x": lambda x: x + (torch.where(x >= 0, 1.0, -1.0) - x).detach(),
        "falling": lambda x: -torch.sign(x) * s,
        "heaviside": lambda x: torch.heaviside(x, torch.tensor(1.0)),
        "of the rolled image": lambda x: torch.where(x >= torch.roll(x, 1, -1), 1.0, -1.0),
        "of the maximum": lambda x: (x * 2 >= x.amax(-1, keepdim=True)).float(),
    }
    name = n.choose(list(options))
    return Part(name, options[name])


def move(n: Numbers, x: torch.Tensor) -> Part:
    """What happens to levels between the quantiser and the layer."""
    options: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "flip": lambda x: torch.flip(x, [1]),
        "roll": lambda x: torch.roll(x, 1, 1),
        "twice": lambda x: torch.cat([x, x], 1),
        "with its negative": lambda x: torch.cat([x, -x], 1),
        "half the channels": lambda x: x[:, : (x.shape[1] + 1) // 2],
        "every second channel": lambda x: x[:, ::2],
        "dropout": lambda x: F.dropout(x, 0.5, training=False),
        "contiguous": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        "scaled": lambda x: x * 0.5,
        "plus one": lambda x: x + 1.0,
    }
    if x.ndim == 3:
        options["pad"] = lambda x: F.pad(x, (2, 1))
    if x.ndim == 4:
        wide = min(x.shape[2:]) >= 2
        value = n.choose([-1.0, 1.0, 0.0])
        options |= {
            f"pad {value}": lambda x: F.pad(x, (1, 0, 1, 2), value=value),
            "transpose": lambda x: x.transpose(2, 3),
            "upsample": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
            "max pool 3": lambda x: F.max_pool2d(x, 3, 1, 1),
            "replicate": lambda x: F.pad(x, (1, 1, 1, 0), mode="replicate"),
            "shuffle": lambda x: x.reshape(x.shape[0], -1, 1, *x.shape[2:]).flatten(1, 2),
        }
        if wide:
            options["reflect"] = lambda x: F.pad(x, (1, 1, 0, 1), mode="reflect")
            options["max pool"] = lambda x: F.max_pool2d(x, 2)
            options["min pool"] = lambda x: -F.max_pool2d(-x, 2)
        if wide and x.shape[1] % 2 == 0:
            half = x.shape[1] // 2
            options["halves crossed"] = lambda x: torch.cat([x[:, half:], x[:, :half]], 1)
            options["channel shuffle"] = lambda x: (
                x.reshape(x.shape[0], 2, half, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
            )
        if x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
            options["unshuffle"] = lambda x: F.pixel_unshuffle(x, 2)
        if x.shape[1] % 4 == 0:
            options["pixel shuffle"] = lambda x: F.pixel_shuffle(x, 2)
    name = n.choose(list(options))
    return Part(name, options[name])


@dataclass(frozen=True)
class Weight:
    """A spelling of a weight: the tensor that is stored, and what is computed from it."""

    name: str
    latent: torch.Tensor
    compute: Callable[[torch.Tensor], torch.Tensor]


def weight(n: Numbers, shape: tuple[int, ...], *, out: int = 0) -> Weight:
    """Weights of the given shape, 1 to 3 bits; ``out`` is the dimension of output channels."""
    latent = n.tensor(*shape, step=0.125)
    latent[latent == 0] = 0.125
    per = [1] * len(shape)
    per[out] = shape[out]
    alpha, s = n.scales(*per), n.scale()
    others = tuple(axis for axis in range(len(shape)) if axis != out)

    def ternary(w: torch.Tensor) -> torch.Tensor:
        return torch.sign(w) * (w.abs() > 0.4).float() * alpha

    options: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "sign": torch.sign,
        "where": lambda w: torch.where(w >= 0, 1.0, -1.0),
        "sign * alpha": lambda w: torch.sign(w) * alpha,
        "straight through": lambda w: (torch.sign(w) - w).detach() + w,
        "ternary": ternary,
        "bits": lambda w: (w > 0).float(),
        "scaled bits": lambda w: (w > 0).float() * alpha,
        "2 bits, odd": lambda w: (torch.clamp(torch.floor(w * 4), -2, 1) * 2 + 1) * s,
        "2 bits": lambda w: torch.clamp(torch.round(w * 4), -2, 1) * s,
        "3 bits": lambda w: torch.clamp(torch.round(w * 8), -4, 3) * s,
        "real": lambda w: w,
    }
    if not n.exact:
        options["mean"] = lambda w: torch.sign(w) * w.abs().mean(others, keepdim=True)
    name = n.choose(list(options))
    return Weight(name, latent, options[name])
