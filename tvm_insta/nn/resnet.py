"""Binary residual networks: ResNet-18 for 224x224 images and ResNet-20 for 32x32."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from tvm_insta.nn.blocks import BinaryNetwork, LayerFactory, ResNetBlock
from tvm_insta.nn.options import ModelOptions


class BinaryResNet(BinaryNetwork):
    """Float stem, stages of one-convolution binary blocks, global average pool, float classifier.

    Modules are named "stage1.0" and so on; every stage but the first halves the size in its first
    block.

    Args:
        options: The network's options.
        stem: Float layers before the first block; it returns widths[0] channels.
        widths: Channels of each stage.
        blocks: Number of blocks in each stage.
    """

    def __init__(
        self, options: ModelOptions, stem: nn.Sequential, widths: tuple[int, ...], blocks: int
    ) -> None:
        super().__init__(options)
        factory = LayerFactory(options)
        self.stem = stem
        self.stage_names = tuple(f"stage{index + 1}" for index in range(len(widths)))
        channels = widths[0]
        for stage, width in zip(self.stage_names, widths, strict=True):
            members = nn.ModuleList()
            for index in range(blocks):
                stride = 2 if index == 0 and stage != "stage1" else 1
                members.append(ResNetBlock(factory, f"{stage}.{index}", channels, width, stride))
                channels = width
            self.add_module(stage, members)
        self.fc = nn.Linear(channels, options.num_classes)
        factory.check_selection()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify.

        Args:
            x: `[N, 3, H, W]` float32, normalised.

        Returns:
            Logits `[N, num_classes]` float32.
        """
        x = self.stem(x)
        statistic: torch.Tensor | None = None
        for stage in self.stage_names:
            for block in getattr(self, stage):
                x, statistic = block(x, statistic)
        logits: torch.Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def resnet18(options: ModelOptions) -> BinaryResNet:
    """Build the binary ResNet-18: 16 binary convolutions at 64, 128, 256 and 512 channels.

    Args:
        options: With model "resnet18".
    """
    stem = nn.Sequential(
        OrderedDict[str, nn.Module](
            conv=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            bn=nn.BatchNorm2d(64),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
        )
    )
    return BinaryResNet(options, stem, (64, 128, 256, 512), blocks=4)


def resnet20(options: ModelOptions) -> BinaryResNet:
    """Build the binary ResNet-20: 18 binary convolutions at 16, 32 and 64 channels.

    Args:
        options: With model "resnet20".
    """
    stem = nn.Sequential(
        OrderedDict[str, nn.Module](
            conv=nn.Conv2d(3, 16, 3, padding=1, bias=False),
            bn=nn.BatchNorm2d(16),
        )
    )
    return BinaryResNet(options, stem, (16, 32, 64), blocks=6)
