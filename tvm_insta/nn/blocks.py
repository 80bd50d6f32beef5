"""What the networks are made of: the choice of modules per layer, and the residual blocks."""

from __future__ import annotations

import torch
from torch import nn

from tvm_insta.errors import ModelError
from tvm_insta.nn.conv import BinaryConv2d
from tvm_insta.nn.messages import unknown
from tvm_insta.nn.options import ModelOptions, enclosing, matches
from tvm_insta.nn.prelu import InstaPReLU, RPReLU
from tvm_insta.nn.threshold import InstaThreshold, InstaThresholdPlus, RSign


class LayerFactory:
    """Makes the threshold and PReLU modules of one network, as its options say.

    Args:
        options: The network's options.

    Attributes:
        options: As given.
        layers: Names of the layers made so far, in order.
    """

    def __init__(self, options: ModelOptions) -> None:
        self.options = options
        self.layers: list[str] = []

    def threshold(self, name: str, channels: int) -> RSign:
        """Make the binarisation of one layer.

        Args:
            name: Dotted name of the layer in the network.
            channels: C of its input.
        """
        self.layers.append(name)
        options = self.options
        if options.variant == "baseline" or not options.selects(name):
            return RSign(channels)
        if options.variant == "insta_plus":
            return InstaThresholdPlus(channels, statistic=options.statistic)
        return InstaThreshold(channels, statistic=options.statistic)

    def prelu(self, name: str, channels: int) -> RPReLU:
        """Make the activation function of one layer.

        Args:
            name: Dotted name of the layer in the network.
            channels: C of its input.
        """
        self.layers.append(name)
        options = self.options
        if options.variant == "baseline" or not options.selects(name):
            return RPReLU(channels)
        return InstaPReLU(channels, statistic=options.statistic)

    def check_selection(self) -> None:
        """Check, once all layers are made, that every entry of `select` named one.

        Raises:
            ModelError: An entry matches no layer.
        """
        for entry in self.options.select or ():
            if not any(matches(entry, layer) for layer in self.layers):
                names = dict.fromkeys(name for layer in self.layers for name in enclosing(layer))
                raise unknown(f"layer selection for {self.options.model}", entry, names)


class BinaryNetwork(nn.Module):
    """Base of the networks: it knows its options.

    Args:
        options: What the network was built from.

    Attributes:
        options: As given.
    """

    def __init__(self, options: ModelOptions) -> None:
        super().__init__()
        self.options = options


def measured_prelu(
    prelu: RPReLU, x: torch.Tensor, *, reuse: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Apply a PReLU and hand its statistic on.

    Args:
        prelu: RPReLU or InstaPReLU.
        x: `[N, C, H, W]`, its input.
        reuse: Whether the next threshold is to take the statistic of this input.

    Returns:
        The result, `[N, C, H, W]`, and the statistic `[N, C]`, or None where there is none to
        reuse.
    """
    statistic = prelu.measure(x)
    return prelu(x, statistic), statistic if reuse else None


def halve(stride: int) -> nn.Module:
    """Make the part of a shortcut that follows a stride: average pooling or nothing.

    Args:
        stride: 1 or 2.

    Raises:
        ModelError: Another stride.
    """
    if stride not in (1, 2):
        raise ModelError(f"a residual block got stride {stride}; allowed are 1 and 2")
    return nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()


class ResNetBlock(nn.Module):
    """One binary convolution with its own shortcut (ReActNet's ResNet block).

    binarise -> binary conv3x3 -> BN -> + shortcut -> PReLU. The shortcut starts before the
    binarisation; where the size halves it is average pooling, a float 1x1 convolution and BN.

    Args:
        factory: Makes the threshold and the PReLU.
        name: Dotted name of the block.
        in_channels: C of the input.
        out_channels: O of the output.
        stride: 1 or 2.
    """

    def __init__(
        self, factory: LayerFactory, name: str, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.reuse = factory.options.reuse_statistics
        self.threshold = factory.threshold(f"{name}.threshold", in_channels)
        self.conv = BinaryConv2d(in_channels, out_channels, 3, stride=stride)
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                halve(stride),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.prelu = factory.prelu(f"{name}.prelu", out_channels)

    def forward(
        self, x: torch.Tensor, statistic: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the block.

        Args:
            x: `[N, C, H, W]`.
            statistic: `[N, C]` of the preceding PReLU's input, to reuse, or None.

        Returns:
            `[N, O, H / stride, W / stride]`, and what the next block may reuse.
        """
        bits = self.threshold(x, statistic)
        y = self.bn(self.conv(bits)) + self.shortcut(x)
        return measured_prelu(self.prelu, y, reuse=self.reuse)


class MobileNetBlock(nn.Module):
    """A binary 3x3 and a binary 1x1 convolution, each with its shortcut (ReActNet-A's block).

    binarise -> binary conv3x3 C -> C -> BN -> + x (averaged 2x2 at stride 2) -> PReLU ->
    binarise -> binary conv1x1 -> BN -> + -> PReLU. Where the channels double, two binary 1x1
    convolutions C -> C read the same bits, each with its own BN and its own addition, and are
    concatenated.

    Args:
        factory: Makes the thresholds and the PReLUs.
        name: Dotted name of the block.
        in_channels: C of the input.
        out_channels: C or 2 C.
        stride: 1 or 2.

    Raises:
        ModelError: The channels neither stay nor double.
    """

    def __init__(
        self, factory: LayerFactory, name: str, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        if out_channels not in (in_channels, 2 * in_channels):
            raise ModelError(
                f"a MobileNet block got {in_channels} input and {out_channels} output channels; "
                "the channels must stay or double"
            )
        self.reuse = factory.options.reuse_statistics
        self.threshold1 = factory.threshold(f"{name}.threshold1", in_channels)
        self.conv1 = BinaryConv2d(in_channels, in_channels, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.shortcut = halve(stride)
        self.prelu1 = factory.prelu(f"{name}.prelu1", in_channels)
        self.threshold2 = factory.threshold(f"{name}.threshold2", in_channels)
        branches = out_channels // in_channels
        self.conv2 = nn.ModuleList(
            BinaryConv2d(in_channels, in_channels, 1) for _ in range(branches)
        )
        self.bn2 = nn.ModuleList(nn.BatchNorm2d(in_channels) for _ in range(branches))
        self.prelu2 = factory.prelu(f"{name}.prelu2", out_channels)

    def forward(
        self, x: torch.Tensor, statistic: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the block.

        Args:
            x: `[N, C, H, W]`.
            statistic: `[N, C]` of the preceding PReLU's input, to reuse, or None.

        Returns:
            `[N, C or 2 C, H / stride, W / stride]`, and what the next block may reuse.
        """
        bits = self.threshold1(x, statistic)
        y = self.bn1(self.conv1(bits)) + self.shortcut(x)
        y, statistic = measured_prelu(self.prelu1, y, reuse=self.reuse)
        bits = self.threshold2(y, statistic)
        branches = [bn(conv(bits)) + y for conv, bn in zip(self.conv2, self.bn2, strict=True)]
        joined = branches[0] if len(branches) == 1 else torch.cat(branches, dim=1)
        return measured_prelu(self.prelu2, joined, reuse=self.reuse)
