"""XNOR-Net in PyTorch: a sign with a mean, clamped latent weights, the box filter K."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


class BinActive(torch.autograd.Function):
    """The signs and the mean magnitude over the channels."""

    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        mean = torch.mean(input.abs(), 1, keepdim=True)
        return input.sign(), mean

    @staticmethod
    def backward(ctx, gradient, _):
        (input,) = ctx.saved_tensors
        gradient = gradient.clone()
        gradient[input.abs().ge(1)] = 0
        return gradient


class BoxFilter(nn.Module):
    """K: the mean magnitude in each window, by a convolution whose weight forward makes."""

    def __init__(self, kernel, stride, padding):
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, mean):
        height, width = self.kernel
        box = torch.ones(1, 1, height, width, device=mean.device) / (height * width)
        return F.conv2d(mean, box, None, self.stride, self.padding)


class XnorConv2d(nn.Conv2d, Binary):
    """Clamps its latent weight in place, then takes sign and scale of a centred copy."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.k = BoxFilter(self.kernel_size, self.stride, self.padding)

    def forward(self, x):
        x, mean = BinActive.apply(x)
        self.weight.data.clamp_(-1.0, 1.0)
        weight = self.weight - self.weight.mean(1, keepdim=True)
        alpha = weight.norm(1, 3, keepdim=True).sum(2, keepdim=True).sum(1, keepdim=True)
        alpha = alpha.div(weight[0].nelement())
        out = F.conv2d(x, weight.sign() * alpha, self.bias, self.stride, self.padding)
        return out * self.k(mean).expand_as(out)


class Block(nn.Module):
    """batch norm, binary convolution, ReLU: XNOR-Net's order."""

    def __init__(self, inputs, outputs, kernel, padding, stride=1):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs, eps=1e-4, momentum=0.1, affine=True)
        self.conv = XnorConv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv(self.bn(x)))


class NetworkInNetwork(nn.Module):
    """5x5 and 1x1 layers, overlapping pools, an average for the classes."""

    def __init__(self):
        super().__init__()
        self.xnor = nn.Sequential(
            nn.Conv2d(3, 24, kernel_size=5, stride=1, padding=2),
            nn.BatchNorm2d(24, eps=1e-4),
            nn.ReLU(inplace=True),
            Block(24, 20, 1, 0),
            Block(20, 16, 1, 0),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            Block(16, 32, 5, 2),
            Block(32, 24, 3, 1, stride=2),
            nn.BatchNorm2d(24, eps=1e-4),
            nn.Conv2d(24, 10, 1),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(kernel_size=8, stride=1, padding=0),
        )

    def forward(self, x):
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm2d,)) and self.training:
                module.weight.data.clamp_(min=0.01)
        x = self.xnor(x)
        return x.view(x.size(0), 10)


FAMILIES = [Family("XNOR-Net", NetworkInNetwork)]
