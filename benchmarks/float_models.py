"""The float networks of the peers: ResNet-18 and MobileNetV1 for 224x224, ResNet-20 for 32x32.

Each has the layers of the published network, and random weights: they change no latency.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = _conv(inputs, outputs, 3, stride), _conv(outputs, outputs, 3)
        self.branch = nn.Sequential(*first, nn.ReLU(), *second)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Sequential(*([] if same else _conv(inputs, outputs, 1, stride)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 with 1000 classes and random weights, in evaluation mode."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [*_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Residual(inputs, outputs, stride), _Residual(outputs, outputs, 1)]
        inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*layers, *head).eval()


def mobilenet_v1() -> nn.Module:
    """MobileNetV1 with 1000 classes and random weights, in evaluation mode."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [*_conv(3, 32, 3, 2), nn.ReLU()]
    inputs = 32
    for outputs, stride in (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
        *[(512, 1)] * 5,
        *((1024, 2), (1024, 1)),
    ):
        layers += [*_conv(inputs, inputs, 3, stride, groups=inputs), nn.ReLU()]
        layers += [*_conv(inputs, outputs, 1), nn.ReLU()]
        inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000)]
    return nn.Sequential(*layers, *head).eval()


def resnet20() -> nn.Module:
    """ResNet-20 with 10 classes and random weights, in evaluation mode."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [*_conv(3, 16, 3), nn.ReLU()]
    inputs = 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        layers += [_Residual(inputs, outputs, stride)]
        layers += [_Residual(outputs, outputs, 1) for _ in range(2)]
        inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *head).eval()


MODELS = {"resnet18": resnet18, "mobilenet_v1": mobilenet_v1, "resnet20": resnet20}
