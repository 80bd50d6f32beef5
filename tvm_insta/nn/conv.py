"""Binary convolution and binary dense layer: 1-bit weights with one float scale per output.

Both compute `conv(x, sign(W)) * s` with `s[o] = mean |W[o]|`, which equals `conv(x, s * sign(W))`
mathematically. The scale stands outside because a sum of +-1 products is a small integer, which
float32 holds exactly (below 2**24), whatever the order of summation: so the convolution agrees with
popcount arithmetic to the last bit, and only the multiplication by s rounds, once.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tvm_insta.errors import ModelError
from tvm_insta.nn.binarise import binarise_weight


def _uniform_weight(*shape: int) -> nn.Parameter:
    fan_in = 1
    for size in shape[1:]:
        fan_in *= size
    bound = 2.0 / fan_in**0.5
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class BinaryConv2d(nn.Module):
    """Convolution with 1-bit weights, without a bias (ReActNet).

    The zero padding is in the value domain: a padded position contributes 0 to the sum, neither +1
    nor -1.

    Args:
        in_channels: C of the input, a multiple of groups.
        out_channels: O of the output, a multiple of groups.
        kernel_size: Height and width of the square kernel.
        stride: Step in both directions.
        padding: Zeros on each side; None keeps the size at stride 1 for odd kernels.
        dilation: Distance of neighbouring taps.
        groups: Number of independent groups of channels.

    Attributes:
        weight: Real-valued parameter `[O, C / groups, K, K]`; only its sign and scale count.
        binary_weights: False uses the real weights, without a scale: the first step of the
            two-step training.
        training_dtype: Operands of the convolution in training mode; None takes those of x. In
            bfloat16 +-1 is exact and products are summed in float32, but a sum above 256 and the
            gradients keep 8 bits. Evaluation does not use it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, kernel_size, stride, dilation, groups) < 1:
            raise ModelError(
                "BinaryConv2d got a channel count, kernel size, stride, dilation or group count "
                "below 1; all must be positive"
            )
        if in_channels % groups or out_channels % groups:
            raise ModelError(
                f"BinaryConv2d got {in_channels} input and {out_channels} output channels in "
                f"{groups} groups; both must be multiples of groups"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = dilation * (kernel_size // 2) if padding is None else padding
        self.dilation = dilation
        self.groups = groups
        self.binary_weights = True
        self.training_dtype: torch.dtype | None = None
        self.weight = _uniform_weight(out_channels, in_channels // groups, kernel_size, kernel_size)

    def scale(self) -> torch.Tensor:
        """Return `s[o] = mean |W[o]|`, `[O]`, detached: it gets no gradient."""
        return self.weight.detach().abs().mean(dim=(1, 2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve.

        Args:
            x: `[N, C, H, W]` float holding activation values, +-1 for one bit.

        Returns:
            `[N, O, H', W']` float.
        """
        if not self.binary_weights:
            return self._convolve(x, self.weight)
        signs = binarise_weight(self.weight, training=self.training)
        return self._convolve(x, signs) * self.scale().view(1, -1, 1, 1)

    def _convolve(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        shape = (self.stride, self.padding, self.dilation, self.groups)
        if self.training and self.training_dtype is not None:
            low = self.training_dtype
            return F.conv2d(x.to(low), weight.to(low), None, *shape).to(x.dtype)
        return F.conv2d(x, weight, None, *shape)

    def extra_repr(self) -> str:
        """Describe the layer for `print(model)`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}"
        )


class BinaryLinear(nn.Module):
    """Dense layer with 1-bit weights, without a bias.

    Args:
        in_features: C of the input.
        out_features: O of the output.

    Attributes:
        weight: Real-valued parameter `[O, C]`; only its sign and scale count.
        binary_weights: As for `BinaryConv2d`.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        if min(in_features, out_features) < 1:
            raise ModelError(
                f"BinaryLinear got {in_features} input and {out_features} output features; "
                "both must be positive"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.binary_weights = True
        self.weight = _uniform_weight(out_features, in_features)

    def scale(self) -> torch.Tensor:
        """Return `s[o] = mean |W[o]|`, `[O]`, detached: it gets no gradient."""
        return self.weight.detach().abs().mean(dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply.

        Args:
            x: `[N, C]` float holding activation values, +-1 for one bit.

        Returns:
            `[N, O]` float.
        """
        if not self.binary_weights:
            return F.linear(x, self.weight)
        signs = binarise_weight(self.weight, training=self.training)
        return F.linear(x, signs) * self.scale()

    def extra_repr(self) -> str:
        """Describe the layer for `print(model)`."""
        return f"{self.in_features}, {self.out_features}"


def set_binary_weights(model: nn.Module, enabled: bool) -> None:
    """Switch every binary layer of a model between real and 1-bit weights.

    Two-step training first learns binary activations with real weights, then both binary.

    Args:
        model: Changed in place.
        enabled: True for 1-bit weights.
    """
    for module in model.modules():
        if isinstance(module, BinaryConv2d | BinaryLinear):
            module.binary_weights = enabled
