"""DoReFa, PACT and LSQ, of 1 to 4 bits for weights and activations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


class UniformQuantize(torch.autograd.Function):
    """``round(x * n) / n`` with ``n = 2**bits - 1``; of one bit, the sign."""

    @staticmethod
    def forward(ctx, input, bits):
        if bits == 1:
            return torch.sign(input)
        n = float(2**bits - 1)
        return torch.round(input * n) / n

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clone(), None


class DoReFaConv(nn.Conv2d, Binary):
    """Weights behind a tanh; activations clamped to 0..1."""

    def __init__(self, inputs, outputs, kernel, stride, padding, bits):
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)
        self.bits = bits

    def weights(self):
        if self.bits == 1:
            mean = torch.mean(torch.abs(self.weight)).detach()
            return UniformQuantize.apply(self.weight / mean, 1) * mean
        weight = torch.tanh(self.weight)
        largest = torch.max(torch.abs(weight)).detach()
        weight = weight / 2 / largest + 0.5
        return largest * (2 * UniformQuantize.apply(weight, self.bits) - 1)

    def forward(self, input):
        activations = UniformQuantize.apply(torch.clamp(input, 0, 1), self.bits)
        return F.conv2d(activations, self.weights(), self.bias, self.stride, self.padding)


class PactConv(DoReFaConv):
    """A learned clipping value; the spelling with two absolute values."""

    def __init__(self, *args):
        super().__init__(*args)
        self.alpha = nn.Parameter(torch.tensor(1.5))

    def forward(self, input):
        clipped = 0.5 * (input.abs() - (input - self.alpha).abs() + self.alpha)
        steps = 2**self.bits - 1
        activations = torch.round(clipped * steps / self.alpha) * self.alpha / steps
        return F.conv2d(activations, self.weights(), self.bias, self.stride, self.padding)


def scaled_gradient(x, factor):
    """x, with its gradient times a factor."""
    soft = x * factor
    return (x - soft).detach() + soft


def rounded(x):
    """The rounded x, with the gradient of x."""
    return (x.round() - x).detach() + x


class LsqQuantiser(nn.Module):
    """A learned step: ``round(clamp(x / s, low, high)) * s``."""

    def __init__(self, bits, signed, channels=1):
        super().__init__()
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        if signed and bits == 1:
            self.low, self.high = -1, 1
        self.s = nn.Parameter(torch.full((channels, 1, 1, 1), 0.45 / math.sqrt(self.high)))

    def start(self, x):
        """The step of a weight: from its mean magnitude, per channel."""
        mean = x.detach().abs().mean((1, 2, 3), keepdim=True)
        self.s = nn.Parameter(mean * 2 / math.sqrt(self.high))

    def forward(self, x):
        step = scaled_gradient(self.s, 1.0 / math.sqrt(self.high * x[0].numel()))
        x = torch.clamp(x / step, self.low, self.high)
        return rounded(x) * step


class LsqConv(nn.Conv2d, Binary):
    """Learned steps for weights, per output channel, and for activations."""

    def __init__(self, inputs, outputs, kernel, stride, padding, bits):
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)
        self.quan_w = LsqQuantiser(bits, signed=True, channels=outputs)
        self.quan_a = LsqQuantiser(bits, signed=False)
        self.quan_w.start(self.weight)

    def forward(self, x):
        return self._conv_forward(self.quan_a(x), self.quan_w(self.weight), self.bias)


class PreactBlock(nn.Module):
    """batch norm, ReLU, two quantised layers; a quantised 1x1 layer in the shortcut."""

    def __init__(self, conv, bits, inputs, outputs, stride=1):
        super().__init__()
        self.bn0, self.conv0 = nn.BatchNorm2d(inputs), conv(inputs, outputs, 3, stride, 1, bits)
        self.bn1, self.conv1 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3, 1, 1, bits)
        self.skip_conv = None
        if stride != 1:
            self.skip_conv = conv(inputs, outputs, 1, stride, 0, bits)

    def forward(self, x):
        out = F.relu(self.bn0(x))
        shortcut = x if self.skip_conv is None else self.skip_conv(out)
        out = self.conv0(out)
        return self.conv1(F.relu(self.bn1(out))) + shortcut


class ResNet(nn.Module):
    """First and last layer in full precision; a block for each number of bits."""

    def __init__(self, conv, first, second):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.layers = nn.Sequential(
            PreactBlock(conv, first, 16, 16), PreactBlock(conv, second, 16, 32, 2)
        )
        self.bn, self.logit = nn.BatchNorm2d(32), nn.Linear(32, 10)

    def forward(self, x):
        out = F.relu(self.bn(self.layers(self.conv0(x))))
        return self.logit(out.mean(dim=2).mean(dim=2))


def _family(name, conv, first, second):
    bits = f"{first}w{first}a, {second}w{second}a"
    return Family(f"{name} {bits}", lambda: ResNet(conv, first, second))


FAMILIES = [
    _family(name, conv, *bits)
    for name, conv in (("DoReFa", DoReFaConv), ("PACT", PactConv), ("LSQ", LsqConv))
    for bits in ((1, 2), (4, 3))
]
