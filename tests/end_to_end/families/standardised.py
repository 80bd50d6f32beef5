"""IR-Net, RBNN, SiMaN, ReCU: weights standardised, rotated, sorted or clamped before the sign."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


class BinaryQuantize(torch.autograd.Function):
    """The sign; k and t shape the gradient."""

    @staticmethod
    def forward(ctx, input, k, t):
        ctx.save_for_backward(input, k, t)
        return torch.sign(input)

    @staticmethod
    def backward(ctx, gradient):
        input, k, t = ctx.saved_tensors
        return k * t * (1 - torch.pow(torch.tanh(input * t), 2)) * gradient, None, None


class Conv(nn.Conv2d, Binary):
    """What the four have in common: signs of weights and activations."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, 3, stride, 1, bias=False)
        self.k, self.t = torch.tensor([10.0]), torch.tensor([0.1])

    def signs(self, x):
        return BinaryQuantize.apply(x, self.k, self.t)

    def convolve(self, activations, weight):
        return F.conv2d(
            activations, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class IRConv(Conv):
    """Balanced and standardised, with a scale that is a power of two."""

    def forward(self, input):
        w = self.weight
        bw = w - w.view(w.size(0), -1).mean(-1).view(w.size(0), 1, 1, 1)
        bw = bw / bw.view(bw.size(0), -1).std(-1).view(bw.size(0), 1, 1, 1)
        exponent = torch.log(bw.abs().view(bw.size(0), -1).mean(-1)) / math.log(2)
        sw = torch.pow(torch.tensor([2] * bw.size(0)).float(), exponent.round().float())
        sw = sw.view(bw.size(0), 1, 1, 1).detach()
        return self.convolve(self.signs(input), self.signs(bw) * sw)


class RotatedConv(Conv):
    """RBNN: the weight is rotated by two small matrices; the input is standardised, too."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, stride)
        self.a = math.isqrt(inputs)
        while inputs % self.a:
            self.a -= 1
        self.b = inputs * 9 // self.a
        self.register_buffer("R1", torch.linalg.qr(torch.randn(self.a, self.a))[0])
        self.register_buffer("R2", torch.linalg.qr(torch.randn(self.b, self.b))[0])
        self.rotate = nn.Parameter(torch.ones(outputs, 1, 1, 1) * math.pi / 3)
        self.alpha = nn.Parameter(torch.rand(outputs, 1, 1) + 0.5)

    def forward(self, input):
        w = self.weight
        w1 = w - w.mean([1, 2, 3], keepdim=True)
        w2 = w1 / w1.std([1, 2, 3], keepdim=True)
        a1 = input - input.mean([1, 2, 3], keepdim=True)
        a2 = a1 / a1.std([1, 2, 3], keepdim=True)
        x = w2.view(w.shape[0], self.a, self.b)
        rotated = ((self.R1.t()) @ x @ (self.R2)).view_as(w)
        delta = rotated.detach() - w2
        w3 = w2 + torch.abs(torch.sin(self.rotate)) * delta
        return self.convolve(self.signs(a2), self.signs(w3)) * self.alpha


class SimanConv(Conv):
    """SiMaN: the larger half of a filter's magnitudes becomes 1, the other 0."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, stride)
        self.alpha = nn.Parameter(torch.rand(outputs, 1, 1) + 0.5)

    def forward(self, input):
        flat = self.weight.flatten(1)
        order = flat.abs().sort(1, descending=True).indices
        half = torch.zeros_like(flat).scatter_(1, order[:, : flat.shape[1] // 2], 1.0)
        weight = (half - flat).detach() + flat
        return self.convolve(self.signs(input), weight.view_as(self.weight)) * self.alpha


class ReCUConv(Conv):
    """ReCU: standardised weights clamped at a quantile of a Laplace distribution."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, stride)
        self.alpha = nn.Parameter(torch.rand(outputs, 1, 1) + 0.5)
        self.register_buffer("tau", torch.tensor(0.9))

    def forward(self, input):
        a = input
        w = self.weight
        w1 = w - w.mean([1, 2, 3], keepdim=True)
        w2 = w1 / (torch.sqrt(w1.var([1, 2, 3], keepdim=True) + 1e-5) / 2 / np.sqrt(2))
        mean = torch.mean(torch.abs(w2))
        limit = (-mean * torch.log(2 - 2 * self.tau)).detach().cpu().item()
        w3 = torch.clamp(w2, -limit, limit)
        if self.training:
            a = a / torch.sqrt(a.var([1, 2, 3], keepdim=True) + 1e-5)
        return self.convolve(self.signs(a), self.signs(w3)) * self.alpha


class LambdaLayer(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class BasicBlock(nn.Module):
    """Two layers with a shortcut each; every second pixel and padded channels at a stride."""

    def __init__(self, conv, inputs, outputs, stride=1):
        super().__init__()
        self.conv1, self.conv2 = conv(inputs, outputs, stride), conv(outputs, outputs)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = LambdaLayer(
                lambda x: F.pad(
                    x[:, :, ::2, ::2], (0, 0, 0, 0, outputs // 4, outputs // 4), "constant", 0
                )
            )

    def forward(self, x):
        out = self.bn1(self.conv1(x))
        out = F.hardtanh(out + self.shortcut(x), inplace=True)
        residual = out
        out = self.bn2(self.conv2(out))
        return F.hardtanh(out + residual)


class ResNet20(nn.Module):
    """The CIFAR network of all four; each block may have another kind of layer."""

    def __init__(self, first, second):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(BasicBlock(first, 16, 16))
        self.layer2 = nn.Sequential(BasicBlock(second, 16, 32, 2))
        self.bn2, self.linear = nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x):
        out = F.hardtanh(self.bn1(self.conv1(x)), inplace=True)
        out = self.layer2(self.layer1(out))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(self.bn2(out))


FAMILIES = [
    Family("IR-Net, RBNN", lambda: ResNet20(IRConv, RotatedConv)),
    Family("SiMaN, ReCU", lambda: ResNet20(SimanConv, ReCUConv)),
]
