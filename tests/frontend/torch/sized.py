"""Numbers that forward computes from sizes: with a batch that cancels, with one that does not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn


class Net(nn.Module):
    """A layer, a function of ``[N, 4]``, and a layer."""

    def __init__(self, act: Callable[[Net, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.act = act
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)
        self.step = nn.Parameter(torch.full((1,), 0.3))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in [*self.first.parameters(), *self.last.parameters()]:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(self.act(self, self.first(x)))
        return y


def _shapes(x: torch.Tensor) -> torch.Tensor:
    """The batch in every place where shapes stand."""
    n, c = x.shape
    y = x.view(n, 2, -1).reshape(n, c) + torch.zeros(n, c)
    y = y + torch.ones(1, c).expand(n, c) + x.new_zeros((n, c))
    return y.view((n, c)).flatten(1)


def _asserted(x: torch.Tensor) -> torch.Tensor:
    assert x.shape[0] >= 1 and x.numel() % x.shape[0] == 0
    return x * 2


def grad_scale(x: torch.Tensor, scale: object) -> torch.Tensor:
    """x, whose gradient is multiplied: of LSQ."""
    y, scaled = x, x * scale  # type: ignore[operator]
    return (y - scaled).detach() + scaled


def round_pass(x: torch.Tensor) -> torch.Tensor:
    """Rounds, with the gradient of x: of LSQ."""
    y = x.round()
    return (y - x).detach() + x


def _lsq(m: Net, x: torch.Tensor) -> torch.Tensor:
    g = 1.0 / math.sqrt(x.numel() * 3)
    s = grad_scale(m.step, g)
    return round_pass((x / s).clamp(0, 3)) * s


def _lsq_plain(m: Net, x: torch.Tensor) -> torch.Tensor:
    """As two other implementations write it."""
    g = 1.0 / (x.numel() * 3) ** 0.5
    s = m.step * g - (m.step * g).detach() + m.step.detach()
    q = (x / s).clamp(-4, 3)
    return (q.round() - q).detach() * s + q * s


def _lsq_per_image(m: Net, x: torch.Tensor) -> torch.Tensor:
    g = 1.0 / math.sqrt(x.numel() / x.shape[0] * 3)
    s = grad_scale(m.step, g)
    return round_pass((x / s).clamp(0, 3)) * s


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, g):  # type: ignore[no-untyped-def]
        ctx.g = g
        return x

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient * ctx.g, None


def _lsq_function(m: Net, x: torch.Tensor) -> torch.Tensor:
    s = _Scale.apply(m.step, 1.0 / math.sqrt(x.numel() * 3))
    return round_pass((x / s).clamp(0, 3)) * s


def _scaled_x(m: Net, x: torch.Tensor) -> torch.Tensor:
    g = 1 / math.sqrt(x.numel() * 7)
    return (x * g) - (x * g).detach() + x.detach()


def _scaled_x_first(m: Net, x: torch.Tensor) -> torch.Tensor:
    g = 1 / math.sqrt(x.numel() * 7)
    return x.detach() + (x * g) - (x * g).detach()


RIGHT: dict[str, Callable[[Net, torch.Tensor], torch.Tensor]] = {
    "elements of an image": lambda m, x: x * (x.numel() / x.shape[0]),
    "elements of an image, whole": lambda m, x: x * (x.numel() // x.shape[0]),
    "the same by len": lambda m, x: x / (x.nelement() / len(x)),
    "len in a shape": lambda m, x: (x * 2).reshape(len(x * 2), -1),
    "len of new tensors": lambda m, x: torch.cat([x, torch.zeros(len(x), 2)], 1)[:, : x.shape[1]],
    "len to expand": lambda m, x: x + torch.ones(1, 1).expand(len(x), x.shape[1]),
    "len of other things": lambda m, x: x * len([x, x]) + len(x.shape) + len(x[0]),
    "features of a view": lambda m, x: x / x.view(x.size(0), -1).shape[1],
    "features of a flattened tensor": lambda m, x: x / x.flatten(1).shape[1],
    "root of channels": lambda m, x: x / math.sqrt(x.shape[1]),
    "numpy's root of channels": lambda m, x: x / np.sqrt(x.shape[1]),
    "root of elements of an image": lambda m, x: x / math.sqrt(x.numel() / x.size(0)),
    "root of two sizes": lambda m, x: x * (math.sqrt(x.numel()) / math.sqrt(x.shape[0])),
    "power of elements of an image": lambda m, x: x * (x.numel() / x.size(0)) ** -0.5,
    "product of the shape": lambda m, x: x / math.prod(x.shape[1:]),
    "elements of one image": lambda m, x: x / x[0].numel(),
    "elements of the weight": lambda m, x: x / math.sqrt(m.first.weight.numel()),
    "a mean as a sum": lambda m, x: x - x.sum(1, keepdim=True) / (x.numel() / x.size(0)),
    "a size as a tensor": lambda m, x: x / torch.tensor(x.shape[1]).sqrt(),
    "logarithm": lambda m, x: x * math.log(x.numel() / x.shape[0]),
    "a branch on sizes of an image": lambda m, x: x * 2 if x.shape[1] > 3 else x,
    "int of elements": lambda m, x: x * int(x.numel() / x.shape[0]),
    "batch over batch": lambda m, x: x * (x.shape[0] / len(x)),
    "batch plus one over itself": lambda m, x: x * ((x.shape[0] + 1) - x.shape[0]),
    "a number as a tensor": lambda m, x: x * (torch.tensor(x.numel()) / torch.tensor(len(x))),
    "shapes of the batch": lambda m, x: _shapes(x),
    "a branch for one image with the same answer": lambda m, x: (
        x.squeeze()[None] if len(x) == 1 else x
    ),
    "an assertion on the batch": lambda m, x: _asserted(x),
    "the square of a root": lambda m, x: x * (math.sqrt(x.numel()) ** 2 / x.shape[0]),
    "scaled up and down": lambda m, x: (x * math.sqrt(len(x))) / np.sqrt(x.shape[0]),
    "three quarters of a sum": lambda m, x: (x * (0.75 - len(x))) + x * x.shape[0],
    "weights of a mixture": lambda m, x: x.detach() * (1 - 1 / x.numel()) + x * (1 / x.numel()),
    "LSQ, scale of the gradient": _lsq,
    "LSQ, another spelling": _lsq_plain,
    "LSQ, per image": _lsq_per_image,
    "LSQ, as a function": _lsq_function,
    "gradient of x scaled": _scaled_x,
    "gradient of x scaled, other order": _scaled_x_first,
}

OF_THE_BATCH: dict[str, Callable[[Net, torch.Tensor], torch.Tensor]] = {
    "over the batch": lambda m, x: x / x.shape[0],
    "over the root of elements": lambda m, x: x * (1 / math.sqrt(x.numel())),
    "root by power": lambda m, x: x * x.numel() ** -0.5,
    "elements": lambda m, x: x / x.numel(),
    "nelement": lambda m, x: x / x.nelement(),
    "len": lambda m, x: x + len(x),
    "float": lambda m, x: x * float(x.shape[0]),
    "numpy's root": lambda m, x: x / np.sqrt(x.shape[0]),
    "logarithm": lambda m, x: x * math.log(x.numel()),
    "as a tensor": lambda m, x: x / torch.tensor(float(x.shape[0])),
    "full": lambda m, x: x * torch.full((1,), x.shape[0]),
    "root as a tensor": lambda m, x: x / torch.sqrt(torch.tensor(x.numel(), dtype=x.dtype)),
    "branch": lambda m, x: x if x.shape[0] > 1 else x * 2,
    "branch on an equal batch": lambda m, x: x if x.shape[0] != 2 else x * 2,
    "floor": lambda m, x: x * (x.shape[0] // 2),
    "sum over elements": lambda m, x: x - x.sum(1, keepdim=True) / x.numel(),
    "maximum": lambda m, x: x * max(x.shape[0], 2),
    "minimum": lambda m, x: x * min(x.shape[0], 2),
    "minimum of numbers": lambda m, x: x * min(len(x), 2),
    "maximum of numbers": lambda m, x: x * max(len(x), 7),
    "arange": lambda m, x: x + torch.arange(x.shape[0])[:, None],
}
