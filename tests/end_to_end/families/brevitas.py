"""Brevitas' CNV and TFC: quantisers that hand on value, scale, zero point and bit width."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


class QuantTensor(NamedTuple):
    """A tensor with what it was quantised by."""

    value: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    bit_width: torch.Tensor


class Constant(nn.Module):
    """A number as a buffer that no state dict holds."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", torch.tensor(value), persistent=False)

    def forward(self, *_):
        return self.value.detach()


def tensor_clamp(x, low, high):
    """Clamp between tensors."""
    out = torch.where(x > high, high.type_as(x), x)
    return torch.where(out < low, low.type_as(out), out)


class RoundSte(torch.autograd.Function):
    """round, with a straight-through gradient."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class IntQuant(nn.Module):
    """Integers of some bits, between bounds that are computed from the bit width."""

    def __init__(self, bits, scaling, narrow=False):
        super().__init__()
        self.scaling, self.zero_point = scaling, Constant(0.0)
        self.bit_width, self.narrow = Constant(float(bits)), narrow

    def forward(self, x):
        scale, zero, bits = self.scaling(x), self.zero_point(), self.bit_width()
        low = -(2 ** (bits - 1)) + (1 if self.narrow else 0)
        high = (2 ** (bits - 1)) - 1
        y = RoundSte.apply(x / scale + zero)
        y = (tensor_clamp(y, low, high) - zero) * scale
        return QuantTensor(y, scale, zero, bits)


class BinaryQuant(nn.Module):
    """+-scale by two masks, behind a clamp."""

    def __init__(self, scaling):
        super().__init__()
        self.scaling, self.zero_point, self.bit_width = scaling, Constant(0.0), Constant(1.0)

    def forward(self, x):
        scale = self.scaling(x)
        y = tensor_clamp(x, -scale, scale)
        y = (torch.ge(y, 0.0).float() - torch.lt(y, 0.0).float()) * scale
        return QuantTensor(y, scale, self.zero_point(), self.bit_width())


class MeanScaling(nn.Module):
    """The mean magnitude of a weight, per output channel, not below a limit."""

    def forward(self, x):
        mean = x.abs().flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
        return tensor_clamp(mean, torch.tensor(1e-6), torch.tensor(torch.inf))


class QuantIdentity(nn.Module):
    """Quantises activations: 1 bit, or more by a constant scale."""

    def __init__(self, bits, scale=1.0):
        super().__init__()
        scaling = Constant(scale)
        self.act_quant = BinaryQuant(scaling) if bits == 1 else IntQuant(bits, scaling, bits == 2)

    def forward(self, x):
        return self.act_quant(x)


def _weight_quant(bits, scaling):
    return BinaryQuant(scaling) if bits == 1 else IntQuant(bits, scaling, narrow=True)


class QuantConv2d(nn.Conv2d, Binary):
    """Convolution of a `QuantTensor` with a quantised weight."""

    def __init__(self, inputs, outputs, bits, scaling):
        super().__init__(inputs, outputs, kernel_size=3, bias=False)
        self.weight_quant = _weight_quant(bits, scaling)

    def forward(self, x):
        weight = self.weight_quant(self.weight)
        return F.conv2d(x.value, weight.value, self.bias, self.stride, self.padding)


class QuantLinear(nn.Linear, Binary):
    """The same of vectors."""

    def __init__(self, inputs, outputs, bits, scaling):
        super().__init__(inputs, outputs, bias=False)
        self.weight_quant = _weight_quant(bits, scaling)

    def forward(self, x):
        return F.linear(x.value, self.weight_quant(self.weight).value, self.bias)


class TensorNorm(nn.Module):
    """A batch norm with one number for all channels."""

    def __init__(self):
        super().__init__()
        self.eps = 1e-4
        self.weight = nn.Parameter(torch.rand(1))
        self.bias = nn.Parameter(torch.rand(1))
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("running_var", torch.ones(1) * 20)

    def forward(self, x):
        scale = self.weight / (self.running_var + self.eps).sqrt()
        return (x - self.running_mean) * scale + self.bias


class QuantMaxPool(nn.Module):
    """A maximum of a `QuantTensor`, which keeps its scale."""

    def forward(self, x):
        return x._replace(value=F.max_pool2d(x.value, 2, 2))


class CNV(nn.Module):
    """Six convolutions without padding, two pools behind the quantiser, three dense layers."""

    def __init__(self, weight_bits, bits, scaling):
        super().__init__()
        self.conv_features = nn.ModuleList([QuantIdentity(8, 2.0**-7)])
        inputs = 3
        for outputs, pooled in [(16, 0), (16, 1), (32, 0), (32, 1), (48, 0), (48, 0)]:
            conv = QuantConv2d(inputs, outputs, weight_bits, scaling())
            self.conv_features += [conv, nn.BatchNorm2d(outputs, eps=1e-4), QuantIdentity(bits)]
            if pooled:
                self.conv_features.append(QuantMaxPool())
            inputs = outputs
        self.conv_features[1].products = 0  # its input has 8 bits
        self.linear_features = nn.ModuleList()
        for outputs in (64, 64):
            dense = QuantLinear(inputs, outputs, weight_bits, scaling())
            self.linear_features += [dense, nn.BatchNorm1d(outputs, eps=1e-4), QuantIdentity(bits)]
            inputs = outputs
        self.linear_features.append(QuantLinear(inputs, 10, weight_bits, scaling()))
        self.linear_features.append(TensorNorm())

    def forward(self, x):
        x = 2.0 * x - torch.tensor([1.0], device=x.device)
        for mod in self.conv_features:
            x = mod(x)
        x = x._replace(value=x.value.view(x.value.shape[0], -1))
        for mod in self.linear_features:
            x = mod(x)
        return x


class TFC(nn.Module):
    """Dense layers only; the picture is quantised like everything else."""

    def __init__(self, weight_bits, bits, scaling):
        super().__init__()
        self.features = nn.ModuleList([QuantIdentity(bits), nn.Dropout(p=0.2)])
        inputs = 3 * 32 * 32
        for outputs in (64, 64, 64):
            self.features.append(QuantLinear(inputs, outputs, weight_bits, scaling()))
            self.features += [nn.BatchNorm1d(outputs), QuantIdentity(bits), nn.Dropout(p=0.2)]
            inputs = outputs
        self.features.append(QuantLinear(inputs, 10, weight_bits, scaling()))
        self.features.append(TensorNorm())

    def forward(self, x):
        x = x.view(x.shape[0], -1)
        x = 2.0 * x - torch.tensor([1.0], device=x.device)
        for mod in self.features:
            if isinstance(mod, nn.Dropout):
                x = x._replace(value=mod(x.value))
            else:
                x = mod(x)
        return x


def _one():
    return Constant(1.0)


def _step():
    return Constant(0.05)


FAMILIES = [
    Family("Brevitas CNV 1w1a", lambda: CNV(1, 1, _one)),
    Family("Brevitas CNV 2w2a", lambda: CNV(2, 2, _step)),
    Family("Brevitas TFC 1w1a", lambda: TFC(1, 1, _one)),
    Family("Brevitas TFC 1w2a", lambda: TFC(1, 2, MeanScaling)),
]
