"""BNext: a learned temperature, PReLU, attention by a binary layer, squeeze and excitation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family
from tests.end_to_end.families.reactnet import ChannelBias


class HardSign(nn.Module):
    """The sign of x over a temperature; progressive training replaces it by a clamp."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1) * 0.7, requires_grad=False)
        self.range, self.progressive = [-1.5, 1.5], False

    def forward(self, x):
        soft = x.clamp(self.range[0], self.range[1])
        x = x.div(self.temperature.clamp(min=1e-8)).clamp(-1, 1)
        sign = x if self.progressive else x.sign()
        return (sign - soft).detach() + soft


class HardBinaryConv(Binary):
    """Centred weights over a temperature; which form is used depends on the temperature."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, groups=1):
        super().__init__()
        self.stride, self.padding, self.groups = stride, kernel // 2, groups
        self.shape = (outputs, inputs // groups, kernel, kernel)
        self.weight = nn.Parameter(torch.randn(self.shape) * 0.05)
        self.temperature = nn.Parameter(torch.ones(1) * 1e-8, requires_grad=False)

    def forward(self, x):
        real = self.weight - self.weight.mean([1, 2, 3], keepdim=True)
        scale = torch.mean(abs(real), dim=(1, 2, 3), keepdim=True).detach()
        if self.temperature < 1e-7:
            hard = scale * torch.sign(real)
        else:
            hard = scale * (real.div(self.temperature)).clamp(-1, 1)
        soft = torch.clamp(real, -1.5, 1.5)
        weight = hard.detach() - soft.detach() + soft
        return F.conv2d(x, weight, None, self.stride, self.padding, 1, self.groups)


class HardSigmoid(nn.Module):
    """``relu6(x + 3) / 6``."""

    def forward(self, x):
        return F.relu6(x + 3) / 6


class SqueezeAndExpand(nn.Module):
    """Attention over the channels."""

    def __init__(self, channels, planes, ratio=8):
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Conv2d(channels, max(channels // ratio, 2), kernel_size=1),
            nn.ReLU6(inplace=True),
            nn.Conv2d(max(channels // ratio, 2), planes, kernel_size=1),
            HardSigmoid(),
        )

    def forward(self, x):
        return self.se(x)


class Attention(nn.Module):
    """The binary layer's result, weighted by an excitation, multiplies the shortcut."""

    def __init__(self, channels, stride=1):
        super().__init__()
        self.move, self.binary_activation = ChannelBias(channels), HardSign()
        self.binary_conv = HardBinaryConv(channels, channels, 3, stride)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.activation1, self.activation2 = nn.PReLU(channels), nn.PReLU(channels)
        self.downsample, self.stride = nn.AvgPool2d(2, 2), stride
        self.se = SqueezeAndExpand(channels, channels)
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1) * 0.5)

    def forward(self, input):
        residual = self.activation1(input)
        if self.stride == 2:
            residual = self.downsample(residual)
        x = self.binary_conv(self.binary_activation(self.move(input)))
        x = self.activation2(self.norm1(x))
        if self.stride == 2:
            input = self.downsample(input)
        if self.training:
            self.scale.data.clamp_(0, 1)
        mix = self.scale * input + x * (1 - self.scale)
        x = self.se(mix) * x
        x = x * residual
        return self.norm2(x) + residual


class FeedForward(nn.Module):
    """A pointwise layer; twice the channels are two of them side by side."""

    def __init__(self, channels, planes):
        super().__init__()
        self.move, self.binary_activation = ChannelBias(channels), HardSign()
        self.branches = nn.ModuleList(
            HardBinaryConv(channels, channels, 1) for _ in range(planes // channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in self.branches)
        self.activation = nn.PReLU(channels)
        self.se = SqueezeAndExpand(channels, channels)
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1) * 0.5)

    def forward(self, input):
        residual, results = input, []
        bits = self.binary_activation(self.move(input))
        for conv, norm in zip(self.branches, self.norms, strict=True):
            result = self.activation(norm(conv(bits)))
            mix = self.scale * input + result * (1 - self.scale)
            results.append(self.se(mix) * result + residual)
        return results[0] if len(results) == 1 else torch.cat(results, dim=1)


class BNext(nn.Module):
    """Float stem, attention and feed-forward blocks, classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16))
        self.prelu = nn.PReLU(16)
        self.blocks = nn.ModuleList()
        for channels, planes, stride in [(16, 32, 1), (32, 32, 2), (32, 64, 1)]:
            self.blocks += [Attention(channels, stride), FeedForward(channels, planes)]
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(64, 10)

    def forward(self, x):
        x = self.prelu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.fc(torch.flatten(self.pool(x), 1))


FAMILIES = [Family("BNext", BNext)]
