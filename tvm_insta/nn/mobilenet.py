"""The binary MobileNetV1 in ReActNet-A's layout, for 224x224 images."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from tvm_insta.nn.blocks import BinaryNetwork, LayerFactory, MobileNetBlock
from tvm_insta.nn.options import ModelOptions

STEM_CHANNELS = 32
# (output channels, stride) of the 13 blocks.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)


class BinaryMobileNet(BinaryNetwork):
    """Float stem, 13 binary blocks named "block1" to "block13", average pool, float classifier.

    Args:
        options: The network's options.
    """

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        factory = LayerFactory(options)
        self.stem = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv=nn.Conv2d(3, STEM_CHANNELS, 3, stride=2, padding=1, bias=False),
                bn=nn.BatchNorm2d(STEM_CHANNELS),
            )
        )
        self.block_names = tuple(f"block{index + 1}" for index in range(len(BLOCKS)))
        channels = STEM_CHANNELS
        for name, (width, stride) in zip(self.block_names, BLOCKS, strict=True):
            self.add_module(name, MobileNetBlock(factory, name, channels, width, stride))
            channels = width
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
        for name in self.block_names:
            x, statistic = getattr(self, name)(x, statistic)
        logits: torch.Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


def mobilenet_v1(options: ModelOptions) -> BinaryMobileNet:
    """Build the binary MobileNetV1.

    Args:
        options: With model "mobilenet_v1".
    """
    return BinaryMobileNet(options)
