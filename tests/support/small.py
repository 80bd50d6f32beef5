"""Small networks of the project's own modules: a few blocks show what a whole ResNet-20 shows."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn

from tvm_insta.nn.initialise import initialise
from tvm_insta.nn.options import ModelOptions
from tvm_insta.nn.resnet import BinaryResNet


def small_resnet(
    variant: str, *, widths: tuple[int, ...] = (16, 32), blocks: int = 3, **options: Any
) -> BinaryResNet:
    """The first stages of a ResNet-20 with fewer blocks, seeded, in evaluation mode."""
    stem = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(3, widths[0], 3, padding=1, bias=False), bn=nn.BatchNorm2d(widths[0])
    )
    chosen = ModelOptions("resnet20", variant, num_classes=10, **options)
    network = BinaryResNet(chosen, nn.Sequential(stem), widths, blocks)
    initialise(network, "seeded", seed=0)
    return network.eval()
