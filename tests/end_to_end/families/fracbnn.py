"""FracBNN: 2-bit activations as two binary passes with a gate, behind a thermometer code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


class Thermometer(nn.Module):
    """Each pixel as a column of +-1: ``[N, C, H, W] in 0..1 -> [N, C * levels, H, W]``."""

    def __init__(self, resolution=32):
        super().__init__()
        self.levels, self.resolution = round(255.0 / resolution), float(resolution)
        steps = torch.arange(0, self.levels, dtype=torch.float32)
        self.register_buffer("placeholder", steps.view(1, 1, -1, 1, 1), persistent=False)

    def forward(self, x):
        n, c, h, w = x.shape
        x = torch.round(x * 255.0 / self.resolution)
        code = torch.ones(n, c, self.levels, h, w, device=x.device) * self.placeholder
        x = x.view(n, c, 1, h, w).expand_as(code)
        out = 2.0 * (x > code).float() - 1.0
        return out.view(n, c * self.levels, h, w)


class Quantize(torch.autograd.Function):
    """-1, -1/3, 1/3, 1."""

    @staticmethod
    def forward(ctx, input, bits):
        ctx.save_for_backward(input)
        step = 2.0 / (2.0**bits - 1.0)
        return torch.round((torch.clamp(input, -1.0, 1.0) + 1.0) / step) * step - 1.0

    @staticmethod
    def backward(ctx, gradient):
        (input,) = ctx.saved_tensors
        return gradient * (input.abs() < 1), None


class GreaterThan(torch.autograd.Function):
    """A mask with a gradient."""

    @staticmethod
    def forward(ctx, input, threshold):
        return torch.Tensor.float(torch.gt(input, threshold))

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class BinaryConv(nn.Conv2d, Binary):
    """A layer of +-1 input, the first one among them."""

    def forward(self, x):
        weight = torch.where(self.weight >= 0, 1.0, -1.0)
        return F.conv2d(x, weight, None, self.stride, self.padding)


class GatedConv(nn.Conv2d, Binary):
    """The leading bit first; the second pass counts where its result exceeds a gate."""

    products = 2

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs, affine=False)
        self.threshold = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        self.alpha = 5.0

    def forward(self, input):
        lead = torch.where(input > 0, 1.0, -1.0) * (2.0 / 3.0)
        weight = torch.sign(self.weight)
        out_msb = F.conv2d(lead, weight, self.bias, self.stride, self.padding)
        out_lsb = F.conv2d(input - lead, weight, self.bias, self.stride, self.padding)
        gate = torch.sigmoid(self.alpha * (self.bn(out_msb) - self.threshold))
        mask = GreaterThan.apply(gate, 0.5)
        return out_msb + mask * out_lsb


class WholeGatedConv(GatedConv):
    """The other spelling: the leading bit's layer and that of all bits, chosen by the mask."""

    def forward(self, input):
        lead = torch.where(input > 0, 1.0, -1.0) * (2.0 / 3.0)
        weight = torch.sign(self.weight)
        out_msb = F.conv2d(lead, weight, self.bias, self.stride, self.padding)
        out_full = F.conv2d(input, weight, self.bias, self.stride, self.padding)
        mask = GreaterThan.apply(
            torch.sigmoid(self.alpha * (self.bn(out_msb) - self.threshold)), 0.5
        )
        return (1 - mask) * out_msb + mask * out_full


class Block(nn.Module):
    """quantise, gated convolution, batch norm, shortcut, shifted PReLU."""

    def __init__(self, conv, inputs, outputs, stride=1):
        super().__init__()
        self.rebias, self.conv = nn.BatchNorm2d(inputs), conv(inputs, outputs, stride)
        self.bn, self.prelu = nn.BatchNorm2d(outputs), nn.PReLU(outputs)
        self.stride, self.pool = stride, nn.AvgPool2d(2, 2)
        self.shift = nn.Parameter(torch.randn(outputs, 1, 1) * 0.1)

    def forward(self, x):
        out = self.bn(self.conv(Quantize.apply(self.rebias(x), 2)))
        if self.stride == 2:
            x = self.pool(x)
            x = torch.cat((x, x), dim=1)
        return self.prelu(out + x + self.shift)


class FracBNN(nn.Module):
    """Thermometer, binary stem, gated blocks, classifier."""

    def __init__(self, conv):
        super().__init__()
        self.encoder = Thermometer()
        self.conv1 = BinaryConv(3 * self.encoder.levels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layers = nn.Sequential(Block(conv, 16, 16), Block(conv, 16, 32, 2))
        self.linear = nn.Linear(32, 10)

    def forward(self, x):
        x = self.encoder(torch.sigmoid(x))
        out = self.layers(self.bn1(self.conv1(x)))
        return self.linear(F.avg_pool2d(out, out.size(3)).flatten(1))


FAMILIES = [
    Family("FracBNN", lambda: FracBNN(GatedConv)),
    Family("FracBNN, both layers whole", lambda: FracBNN(WholeGatedConv)),
]
