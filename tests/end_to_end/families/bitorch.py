"""ResNetE, QuickNet, BinaryDenseNet and MeliusNet as bitorch writes them.

Each layer takes the sign, pads the signs with -1 as an operation of its own, and convolves without
padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


class SignFunction(torch.autograd.Function):
    """The sign, in which 0 counts as positive."""

    @staticmethod
    def forward(ctx, tensor, threshold):
        ctx.save_for_backward(tensor, torch.tensor(threshold))
        sign = torch.sign(tensor)
        return torch.where(sign == 0, torch.tensor(1.0, device=tensor.device), sign)

    @staticmethod
    def backward(ctx, gradient):
        tensor, threshold = ctx.saved_tensors
        return torch.where(torch.abs(tensor) <= threshold, gradient, torch.tensor(0.0)), None


class Sign(nn.Module):
    """A quantisation with its bit width."""

    name, bit_width = "sign", 1

    def __init__(self, gradient_cancellation_threshold=1.0):
        super().__init__()
        self.threshold = gradient_cancellation_threshold

    def forward(self, x):
        return SignFunction.apply(x, self.threshold)


class QActivation(nn.Module):
    """An activation with a factor for its gradient."""

    def __init__(self):
        super().__init__()
        self.activation_function, self.factor = Sign(), 1.0

    def forward(self, x):
        return self.activation_function(x)


class QConv2d(nn.Conv2d, Binary):
    """Sign of input and weight; the padding is a tensor operation."""

    def __init__(self, *args, pad_value=-1.0, **kwargs):
        super().__init__(*args, bias=False, **kwargs)
        self.activation, self._weight_quantize = QActivation(), Sign()
        self.pad_value = pad_value

    def forward(self, input):
        x = self.activation(input)
        x = F.pad(x, self._reversed_padding_repeated_twice, mode="constant", value=self.pad_value)
        weight = self._weight_quantize(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, 0, self.dilation, self.groups)


class ResNetEBlock(nn.Module):
    """One binary layer per shortcut."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.body = nn.Sequential(
            QConv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1),
            nn.BatchNorm2d(outputs, momentum=0.9),
        )
        self.downsample = nn.Sequential()
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.AvgPool2d(kernel_size=2, stride=stride),
                nn.Conv2d(inputs, outputs, kernel_size=1, bias=False),
                nn.BatchNorm2d(outputs, momentum=0.9),
            )

    def forward(self, x):
        return self.body(x) + self.downsample(x)


class BlurPool(nn.Module):
    """A fixed depthwise filter with a stride, as QuickNet's transitions use."""

    def __init__(self, channels, stride=2):
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        filt = (row[:, None] * row[None]) / row.sum() ** 2
        self.register_buffer("filt", filt[None, None].repeat(channels, 1, 1, 1))
        self.stride, self.channels = stride, channels

    def forward(self, x):
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(x, self.filt, stride=self.stride, groups=self.channels)


class QuickBlock(nn.Module):
    """binary convolution, ReLU, batch norm, shortcut."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.bn = QConv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.bn(F.relu(self.conv(x))) + x


class QuickTransition(nn.Module):
    """ReLU, maximum, blur, pointwise."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            BlurPool(inputs),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs, momentum=0.9),
        )

    def forward(self, x):
        return self.body(x)


class DenseLayer(nn.Module):
    """BinaryDenseNet: new channels are concatenated; dilated in the last block."""

    def __init__(self, inputs, growth, dilation=1):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = QConv2d(inputs, growth, 3, padding=dilation, dilation=dilation)

    def forward(self, x):
        return torch.cat([x, self.conv(self.bn(x))], dim=1)


class ImprovementLayer(nn.Module):
    """MeliusNet: the newest channels are improved by another binary layer."""

    def __init__(self, inputs, growth):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), QConv2d(inputs, growth, 3, padding=1)
        self.growth = growth

    def forward(self, x):
        y = self.conv(self.bn(x))
        return torch.cat([x[:, : -self.growth], x[:, -self.growth :] + y], dim=1)


def _transition(inputs, outputs):
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.MaxPool2d(2, stride=2),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel_size=1, groups=2, bias=False),
    )


class Network(nn.Module):
    """Grouped stem, body, batch norm, ReLU, average, classifier."""

    def __init__(self, outputs, *body):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1, groups=4, bias=False),
            nn.BatchNorm2d(16),
        )
        self.body = nn.Sequential(*body)
        self.last = nn.Sequential(nn.BatchNorm2d(outputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(outputs, 10)

    def forward(self, x):
        x = self.last(self.body(self.stem(x)))
        return self.classifier(torch.flatten(x, 1))


def _resnet_e():
    return Network(32, ResNetEBlock(16, 16), ResNetEBlock(16, 32, 2), ResNetEBlock(32, 32))


def _quicknet():
    return Network(32, QuickBlock(16), QuickTransition(16, 32), QuickBlock(32), QuickBlock(32))


def _densenet():
    layers = [DenseLayer(16, 16), DenseLayer(32, 16), _transition(48, 24)]
    return Network(56, *layers, DenseLayer(24, 16, 2), DenseLayer(40, 16, 2))


def _meliusnet():
    layers = [DenseLayer(16, 16), ImprovementLayer(32, 16), _transition(32, 24)]
    return Network(40, *layers, DenseLayer(24, 16), ImprovementLayer(40, 16))


class LeNet(nn.Module):
    """tanh between the layers; the dense layers are binary, too."""

    class QLinear(nn.Linear, Binary):
        """Signs of input and weight."""

        def __init__(self, *args):
            super().__init__(*args, bias=False)
            self.activation, self.weight_quantize = QActivation(), Sign()

        def forward(self, x):
            return F.linear(self.activation(x), self.weight_quantize(self.weight), self.bias)

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 16, 5),
            nn.MaxPool2d(2, 2),
            nn.Tanh(),
            nn.BatchNorm2d(16),
            QConv2d(16, 32, 5, pad_value=0.0),
            nn.BatchNorm2d(32),
            nn.MaxPool2d(2, 2),
            nn.Flatten(),
            LeNet.QLinear(32 * 25, 64),
            nn.BatchNorm1d(64),
            nn.Tanh(),
            nn.Linear(64, 10),
        )

    def forward(self, x):
        return self.model(x)


FAMILIES = [
    Family("ResNetE", _resnet_e),
    Family("QuickNet", _quicknet),
    Family("BinaryDenseNet", _densenet),
    Family("MeliusNet", _meliusnet),
    Family("bitorch LeNet", LeNet),
]
