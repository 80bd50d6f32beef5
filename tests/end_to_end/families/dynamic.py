"""SD-BNN and DyBNN: the thresholds come from a squeeze-excitation block of the input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family
from tests.end_to_end.families.reactnet import FlatWeightConv, PolynomialSign


class Squeeze(nn.Module):
    """Means of the channels through two small layers: ``[N, C, H, W] -> [N, C * count]``."""

    def __init__(self, channels, count=1):
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // 4)
        self.fc2 = nn.Linear(channels // 4, channels * count)

    def forward(self, x):
        theta = torch.mean(torch.mean(x, -1), -1)
        return self.fc2(F.relu(self.fc1(theta)))


class DySign(nn.Module):
    """``sign(x + tanh(SE(x)))``."""

    def __init__(self, channels):
        super().__init__()
        self.se, self.activation = Squeeze(channels), PolynomialSign()

    def forward(self, x):
        shift = torch.tanh(self.se(x)).view(x.size(0), x.size(1), 1, 1)
        return self.activation(x + shift.expand_as(x))


class DyPReLU(nn.Module):
    """A PReLU whose slopes depend on the instance, with shifts before and after."""

    def __init__(self, channels):
        super().__init__()
        self.se, self.channels = Squeeze(channels, 3), channels

    def forward(self, x):
        learned = (2 * torch.sigmoid(self.se(x)) - 1).view(-1, self.channels, 3, 1, 1)
        before, slope, after = learned.unbind(2)
        shifted = x - before
        return torch.where(shifted > 0, shifted, slope * shifted) + after


class DyBlock(nn.Module):
    """DyBNN's half block."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.sign, self.conv = DySign(inputs), FlatWeightConv(inputs, outputs, 3, stride, 1)
        self.bn, self.relu = nn.BatchNorm2d(outputs), DyPReLU(outputs)
        self.pool, self.repeat = nn.AvgPool2d(2, 2), outputs // inputs
        self.stride = stride

    def forward(self, x):
        out = self.bn(self.conv(self.sign(x)))
        if self.stride == 2:
            x = self.pool(x)
        if self.repeat > 1:
            x = torch.cat([x] * self.repeat, 1)
        return self.relu(out + x)


class SDConv(nn.Conv2d, Binary):
    """SD-BNN: sigmoid of a squeeze as threshold; shifted weights without a scale."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, 3, stride, 1, bias=False)
        self.fc1 = nn.Conv2d(inputs, max(inputs // 16, 2), 1)
        self.fc2 = nn.Conv2d(max(inputs // 16, 2), inputs, 1)
        self.beta = nn.Parameter(torch.randn(outputs, 1, 1, 1) * 0.01)
        self.gamma = nn.Parameter(torch.rand(1) * 0.5 + 0.5)

    def forward(self, x):
        squeezed = F.adaptive_avg_pool2d(x, 1)
        alpha = torch.sigmoid(self.fc2(F.relu(self.fc1(squeezed)))) - 0.5
        bits = torch.sign(x + alpha * self.gamma)
        return F.conv2d(bits, torch.sign(self.weight + self.beta), None, self.stride, self.padding)


class SDBlock(nn.Module):
    """SD-BNN's block, with a Hardtanh."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv, self.bn = SDConv(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.down = None
        if inputs != outputs:
            self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x):
        out = self.bn(self.conv(x))
        return F.hardtanh(out + (x if self.down is None else self.down(x)))


class Network(nn.Module):
    """Float stem, blocks, average, classifier."""

    def __init__(self, block):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(block(16, 32, 2), block(32, 32))
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = self.blocks(self.bn1(self.conv1(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


FAMILIES = [
    Family("DyBNN", lambda: Network(DyBlock)),
    Family("SD-BNN", lambda: Network(SDBlock)),
]
