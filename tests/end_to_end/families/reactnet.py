"""Bi-Real-Net's ResNet; ReActNet's ResNet and MobileNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


class PolynomialSign(nn.Module):
    """Sign whose gradient is that of a piecewise polynomial, built from three masks."""

    def forward(self, x):
        hard = torch.sign(x)
        left, middle, right = (x < -1).type(torch.float32), (x < 0).float(), (x < 1).float()
        soft = (-1) * left + (x * x + 2 * x) * (1 - left)
        soft = soft * middle + (-x * x + 2 * x) * (1 - middle)
        soft = soft * right + 1 * (1 - right)
        return hard.detach() - soft.detach() + soft


class FlatWeightConv(Binary):
    """Keeps its weight flat, ``[O * C * K * K, 1]``; scales by the mean magnitude."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, padding=1):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.shape = (outputs, inputs, kernel, kernel)
        count = outputs * inputs * kernel * kernel
        self.weights = nn.Parameter((torch.rand(count, 1) - 0.5) * 0.02)

    def forward(self, x):
        real = self.weights.view(self.shape)
        scale = torch.mean(torch.abs(real), dim=3, keepdim=True)
        scale = torch.mean(torch.mean(scale, dim=2, keepdim=True), dim=1, keepdim=True).detach()
        hard = scale * torch.sign(real)
        soft = torch.clamp(real, -1.0, 1.0)
        weight = hard.detach() - soft.detach() + soft
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


class ChannelBias(nn.Module):
    """A learned shift, expanded to the image."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, channels, 1, 1) * 0.2)

    def forward(self, x):
        return x + self.bias.expand_as(x)


class BiRealBlock(nn.Module):
    """sign, binary convolution, batch norm, shortcut; the shortcut of a stride is an average."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.binary_activation = PolynomialSign()
        self.binary_conv = FlatWeightConv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(kernel_size=2, stride=stride),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        residual = x
        out = self.bn1(self.binary_conv(self.binary_activation(x)))
        if self.downsample is not None:
            residual = self.downsample(x)
        out += residual
        return out


class ReActBlock(BiRealBlock):
    """Shifted sign and shifted PReLU about Bi-Real's block."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, stride)
        self.move0 = ChannelBias(inputs)
        self.move1, self.move2 = ChannelBias(outputs), ChannelBias(outputs)
        self.prelu = nn.PReLU(outputs)

    def forward(self, x):
        out = self.bn1(self.binary_conv(self.binary_activation(self.move0(x))))
        residual = x if self.downsample is None else self.downsample(x)
        out += residual
        return self.move2(self.prelu(self.move1(out)))


class MobileBlock(nn.Module):
    """3x3, then 1x1; twice the channels are a pair of 1x1 convolutions side by side."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.move11, self.move21 = ChannelBias(inputs), ChannelBias(inputs)
        self.binary_3x3 = FlatWeightConv(inputs, inputs, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.move12, self.move13 = ChannelBias(inputs), ChannelBias(inputs)
        self.prelu1, self.prelu2 = nn.PReLU(inputs), nn.PReLU(outputs)
        self.move22, self.move23 = ChannelBias(outputs), ChannelBias(outputs)
        self.binary_activation = PolynomialSign()
        self.pooling = nn.AvgPool2d(2, 2)
        self.stride, self.inputs, self.outputs = stride, inputs, outputs
        if inputs == outputs:
            self.binary_pw = FlatWeightConv(inputs, outputs, 1, 1, 0)
            self.bn2 = nn.BatchNorm2d(outputs)
        else:
            self.binary_pw_down1 = FlatWeightConv(inputs, inputs, 1, 1, 0)
            self.binary_pw_down2 = FlatWeightConv(inputs, inputs, 1, 1, 0)
            self.bn2_1, self.bn2_2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(inputs)

    def forward(self, x):
        out1 = self.bn1(self.binary_3x3(self.binary_activation(self.move11(x))))
        if self.stride == 2:
            x = self.pooling(x)
        out1 = x + out1
        out1 = self.move13(self.prelu1(self.move12(out1)))
        out2 = self.binary_activation(self.move21(out1))
        if self.inputs == self.outputs:
            out2 = self.bn2(self.binary_pw(out2)) + out1
        else:
            assert self.outputs == self.inputs * 2
            first = self.bn2_1(self.binary_pw_down1(out2)) + out1
            second = self.bn2_2(self.binary_pw_down2(out2)) + out1
            out2 = torch.cat([first, second], dim=1)
        return self.move23(self.prelu2(self.move22(out2)))


class Network(nn.Module):
    """Float stem, blocks, average, classifier."""

    def __init__(self, *blocks):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.layers = nn.ModuleList(blocks)
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(64, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x))
        for layer in self.layers:
            x = layer(x)
        x = self.pool(x)
        return self.fc(x.view(x.size(0), -1))


FAMILIES = [
    Family("Bi-Real-Net", lambda: Network(BiRealBlock(16, 32, 2), BiRealBlock(32, 64, 2))),
    Family("ReActNet, ResNet", lambda: Network(ReActBlock(16, 32, 2), ReActBlock(32, 64, 2))),
    Family("ReActNet, MobileNet", lambda: Network(MobileBlock(16, 32, 2), MobileBlock(32, 64))),
]
