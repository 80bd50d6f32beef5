"""Random binary networks, and the comparison of what they give with PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.random_numbers import Numbers
from tests.end_to_end.random_parts import Part, Weight, move, quantiser, weight

SHAPE = (12, 6, 7)
"""Channels, height and width of the input."""

Function = Callable[[torch.Tensor], torch.Tensor]


class Layer(nn.Module):
    """A convolution or product of a computed weight."""

    def __init__(self, name: str, spelling: Weight, function: Callable[..., torch.Tensor]):
        super().__init__()
        self.name = f"{name} of {spelling.name} {list(spelling.latent.shape)}"
        self.latent = nn.Parameter(spelling.latent)
        self.compute, self.function = spelling.compute, function

    def forward(self, x):
        return self.function(x, self.compute(self.latent))


class RandomNetwork(nn.Module):
    """Blocks of a quantiser, a layer, and batch norm, activation, shortcut and pool in any order.

    Attributes:
        steps: what is done, in words.
    """

    def __init__(self, seed: int, exact: bool):
        super().__init__()
        self.numbers = Numbers(seed, exact)
        self.label = f"seed {seed}, {'exact' if exact else 'real'}"
        self.parts = nn.ModuleList()
        self.run: list[tuple[Function, bool]] = []  # a function, and whether its input is added
        self.steps: list[str] = []
        self.x = self.numbers.tensor(2, *SHAPE)
        for _ in range(self.numbers.choose([1, 1, 2, 3])):
            self._block()
        del self.x

    def forward(self, x):
        for function, shortcut in self.run:
            x = function(x) + x if shortcut else function(x)
        return x.flatten(1)

    def _add(self, part: Part | nn.Module, shortcut: bool = False) -> None:
        function = part if isinstance(part, nn.Module) else part.run
        if isinstance(part, nn.Module):
            self.parts.append(part)
        self.steps.append(getattr(part, "name", type(part).__name__) + " + x" * shortcut)
        self.run.append((function, shortcut))
        with torch.no_grad():
            y = function(self.x)
            self.x = y + self.x if shortcut else y

    def _block(self) -> None:
        n = self.numbers
        for part in self._shapes():
            self._add(part)
        inner = RandomNetwork.__new__(RandomNetwork)  # quantiser and layer, a shortcut about both
        nn.Module.__init__(inner)
        inner.numbers, inner.parts, inner.run, inner.steps = n, nn.ModuleList(), [], []
        inner.x = self.x
        inner._add(quantiser(n, self.x))
        while n.chance(0.4) and inner.x.numel() < 8000:
            inner._add(move(n, inner.x))
        inner._add(self._layer(inner.x))
        inner.name = "(" + ", ".join(inner.steps) + ")"
        same = inner.x.shape == self.x.shape
        inner.forward = functools.partial(_chain, inner.run)
        self._add(inner, shortcut=same and n.chance(0.6))
        for kind in n.random.sample(["norm", "act", "pool", "scale"], n.choose([1, 2, 3])):
            self._behind(kind)
        if not n.exact:  # else sums of integers times a scale would cancel, but for their rounding
            self._behind("norm")

    def _shapes(self) -> list[Part]:
        """How the block's input is looked at: images, sequences, tokens or vectors."""
        n, x = self.numbers, self.x
        parts: list[Part] = []
        if x.ndim != 4:
            return parts
        if n.chance(0.2):
            parts.append(Part("tokens", lambda x: x.flatten(2).transpose(1, 2)[:, :5]))
        elif n.chance(0.2):
            parts.append(Part("sequence", lambda x: x.flatten(2)[:, :, :9]))
        elif n.chance(0.2):
            parts.append(Part("vector", lambda x: x[:, :, 0, :2].flatten(1)))
        elif n.chance(0.2):
            parts.append(Part("relu", F.relu))  # many zeros
        wide = n.choose([1, 3, 5, 8, 12, 33])
        if x.shape[1] < wide:
            times = -(-wide // x.shape[1])
            parts.insert(0, Part(f"{wide} channels", lambda x: torch.cat([x] * times, 1)[:, :wide]))
        return parts

    def _layer(self, x: torch.Tensor) -> nn.Module:
        n = self.numbers
        if x.ndim == 2 or (x.ndim == 3 and n.chance(0.6)):
            out = n.choose([1, 4, 7, 16])
            if n.chance(0.3):
                return Layer("matmul", weight(n, (x.shape[-1], out), out=1), torch.matmul)
            bias = n.tensor(out) if n.chance(0.3) else None
            return Layer("linear", weight(n, (out, x.shape[-1])), lambda x, w: F.linear(x, w, bias))
        return self._convolution(x)

    def _convolution(self, x: torch.Tensor) -> nn.Module:
        n, channels, space = self.numbers, x.shape[1], x.ndim - 2
        kernel = tuple(min(n.choose([1, 2, 3]), size) for size in x.shape[2:])
        divisors = [g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0]
        groups = n.choose(divisors)
        out = groups * n.choose([1, 2, 3] if groups > 1 else [1, 4, 8, 9])
        bias = n.tensor(out) if n.chance(0.3) else None
        if space == 2 and n.chance(0.15) and groups == 1:
            stride = n.choose([1, 2])
            options = {"stride": stride, "padding": n.choose([0, min(1, min(kernel) - 1)])}
            options["output_padding"] = n.choose([0, 1]) if stride == 2 else 0
            function = functools.partial(F.conv_transpose2d, bias=bias, **options)
            made = weight(n, (channels, out, *kernel), out=1)
            return Layer(f"transposed {options}", made, function)
        options = {"groups": groups, "stride": n.choose([1, 1, 2])}
        options["padding"] = n.choose([0, 1, 2, tuple(n.choose([0, 1, 2]) for _ in range(space))])
        if n.chance(0.2):
            options |= {"stride": 1, "padding": "same"}
        elif n.chance(0.2) and min(x.shape[2:]) > 4:
            options["dilation"] = 2
        function = functools.partial(F.conv2d if space == 2 else F.conv1d, bias=bias, **options)
        made = weight(n, (out, channels // groups, *kernel))
        return Layer(f"conv{space}d {options}", made, function)

    def _behind(self, kind: str) -> None:
        n, x = self.numbers, self.x
        if kind == "norm" and not (x.ndim == 3 and "linear" in self.steps[-1]):
            self._add(n.batch_norm(nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d, x.shape[1]))
        elif kind == "act":
            slope = n.scales(1)
            acts = {
                "relu": F.relu,
                "prelu": lambda x: F.prelu(x, slope),
                "hardtanh": F.hardtanh,
                "clamp": lambda x: torch.clamp(x, -2.0, 2.0),
            }
            name = n.choose(list(acts))
            self._add(Part(name, acts[name]))
        elif kind == "pool" and x.ndim == 4 and min(x.shape[2:]) >= 2:
            pool = n.choose([F.max_pool2d, F.avg_pool2d])
            self._add(Part(pool.__name__, lambda x: pool(x, 2)))
        elif kind == "scale":
            scale = n.scale()
            self._add(Part(f"* {scale}", lambda x: x * scale))


def _chain(run: Sequence[tuple[Function, bool]], x: torch.Tensor) -> torch.Tensor:
    for function, _ in run:
        x = function(x)
    return x


class SideBySide(nn.Module):
    """Several networks of one input as one: their outputs are concatenated."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x):
        return torch.cat([network(x) for network in self.networks], 1)


def images(count: int, seed: int, exact: bool) -> torch.Tensor:
    """Inputs, the last of them all zeros."""
    x = Numbers(seed, exact).tensor(count, *SHAPE)
    x[-1] = 0.0
    return x


@dataclass(frozen=True)
class Difference:
    """A network whose output is not PyTorch's.

    Attributes:
        largest: difference, relative to the largest output.
        elements: how many differ.
        images: in which images.
        excused: whether PyTorch itself answers otherwise for numbers that differ by rounding only.
    """

    largest: float
    elements: int
    images: tuple[int, ...]
    excused: bool


ROUNDING = 2e-5
"""Of the largest output: float32 sums of some hundred products in another order, three times."""


def compare(network: RandomNetwork, x: torch.Tensor, found: np.ndarray) -> Difference | None:
    """What is wrong with the output ``found`` of a network, None for nothing."""
    with torch.no_grad():
        expected = network(x).numpy()
    scale = max(1.0, float(np.abs(expected).max()))
    allowed = 0.0 if network.numbers.exact else ROUNDING * scale
    off = ~(np.abs(found - expected) <= allowed)  # NaN is off
    if found.shape == expected.shape and not off.any():
        return None
    wrong = tuple(int(at) for at in np.flatnonzero(off.any(1)))
    largest = float(np.abs(found - expected).max() / scale)
    excused = not network.numbers.exact and set(wrong) <= set(_sensitive(network, x, expected))
    return Difference(largest, int(off.sum()), wrong, excused)


def _sensitive(network: nn.Module, x: torch.Tensor, expected: np.ndarray) -> list[int]:
    """Images whose answer flips where the input moves by a few float32 roundings."""
    scale = max(1.0, float(np.abs(expected).max()))
    found = np.zeros(len(expected), dtype=bool)
    generator = torch.Generator().manual_seed(0)
    for _ in range(32):
        moved = x * (1 + 1e-6 * torch.randn(x.shape, generator=generator))
        with torch.no_grad():
            off = np.abs(network(moved).numpy() - expected) > 1e-4 * scale
        found |= off.any(1)
    return [int(at) for at in np.flatnonzero(found)]
