"""BinaryNet (Hubara): writes the binarised weight into the parameter, in forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


def binarize(tensor, mode="det"):
    """The sign, or a random rounding."""
    if mode == "det":
        return tensor.sign()
    noise = torch.rand(tensor.size()).add(-0.5)
    return tensor.add_(1).div_(2).add_(noise).clamp_(0, 1).round().mul_(2).add_(-1)


class BinarizeLinear(nn.Linear, Binary):
    """Binarises its input's data and its own weight; keeps the latent weight beside it."""

    def forward(self, input):
        if input.size(1) != 3072:
            input.data = binarize(input.data)
        if not hasattr(self.weight, "org"):
            self.weight.org = self.weight.data.clone()
        self.weight.data = binarize(self.weight.org)
        out = F.linear(input, self.weight)
        if self.bias is not None:
            self.bias.org = self.bias.data.clone()
            out += self.bias.view(1, -1).expand_as(out)
        return out


class BinarizeConv2d(nn.Conv2d, Binary):
    """The same for images; those of three channels are left as they are."""

    def __init__(self, inputs, *args, **kwargs):
        super().__init__(inputs, *args, **kwargs)
        self.products = 0 if inputs == 3 else 1

    def forward(self, input):
        if input.size(1) != 3:
            input.data = binarize(input.data)
        if not hasattr(self.weight, "org"):
            self.weight.org = self.weight.data.clone()
        self.weight.data = binarize(self.weight.org)
        out = F.conv2d(
            input, self.weight, None, self.stride, self.padding, self.dilation, self.groups
        )
        if self.bias is not None:
            self.bias.org = self.bias.data.clone()
            out += self.bias.view(1, -1, 1, 1).expand_as(out)
        return out


class VGG(nn.Module):
    """Convolution, pool, batch norm, Hardtanh; then dense layers and a log-softmax."""

    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for outputs, pooled in [(16, False), (16, True), (32, False), (32, True), (64, True)]:
            layers.append(BinarizeConv2d(inputs, outputs, kernel_size=3, padding=1, bias=True))
            layers += [nn.MaxPool2d(kernel_size=2, stride=2)] if pooled else []
            layers += [nn.BatchNorm2d(outputs), nn.Hardtanh(inplace=True)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            BinarizeLinear(64 * 16, 64, bias=True),
            nn.BatchNorm1d(64),
            nn.Hardtanh(inplace=True),
            nn.Dropout(0.5),
            BinarizeLinear(64, 10, bias=True),
            nn.BatchNorm1d(10, affine=False),
            nn.LogSoftmax(dim=1),
        )

    def forward(self, x):
        x = self.features(x)
        x = x.view(-1, 64 * 4 * 4)
        return self.classifier(x)


FAMILIES = [Family("BinaryNet", VGG)]
