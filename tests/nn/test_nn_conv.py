from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tvm_insta import nn
from tvm_insta.errors import ModelError


def _bits(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.where(torch.rand(shape, generator=generator) < 0.5, 1.0, -1.0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "dilation", "groups"),
    [(3, 1, 1, 1, 1), (64, 3, 1, 1, 1), (40, 3, 2, 1, 1), (8, 7, 1, 1, 1), (12, 3, 1, 2, 4)],
)
def test_integer_part_is_exact(
    *,
    training: bool,
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    groups: int,
    generator: torch.Generator,
) -> None:
    conv = nn.BinaryConv2d(
        channels, 4 * groups, kernel, stride=stride, dilation=dilation, groups=groups
    ).train(training)
    with torch.no_grad():
        conv.weight.uniform_(-1, 1, generator=generator)
        conv.weight.view(-1)[0] = 0.0  # sign(0) is +1
    x = _bits((2, channels, 9, 8), generator)
    signs = torch.where(conv.weight >= 0, 1, -1).double()
    exact = F.conv2d(
        x.double(), signs, None, stride, dilation * (kernel // 2), dilation, groups
    ).float()
    expected = exact * conv.weight.abs().mean(dim=(1, 2, 3)).view(1, -1, 1, 1)
    assert torch.equal(conv(x), expected)


def test_padding_contributes_nothing() -> None:
    conv = nn.BinaryConv2d(5, 1, 3).eval()
    with torch.no_grad():
        conv.weight.fill_(1.0)
    y = conv(torch.ones(1, 5, 3, 3))[0, 0]
    assert y.tolist() == [[20.0, 30.0, 20.0], [30.0, 45.0, 30.0], [20.0, 30.0, 20.0]]


def test_scale_gets_no_gradient(generator: torch.Generator) -> None:
    conv = nn.BinaryConv2d(2, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([0.25, -0.75]).view(1, 2, 1, 1))
    x = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    # d y / d W = s * x through the sign alone, s = 0.5; a gradient of s would add +-1 to it.
    assert conv.weight.grad.flatten().tolist() == [0.5, -0.5]


def test_real_weights_in_the_first_step(generator: torch.Generator) -> None:
    model = torch.nn.Sequential(
        nn.BinaryConv2d(4, 3, 3), torch.nn.Flatten(), nn.BinaryLinear(48, 2)
    )
    x = _bits((1, 4, 4, 4), generator)
    nn.set_binary_weights(model, False)
    conv, _, dense = model
    expected = F.linear(F.conv2d(x, conv.weight, padding=1).flatten(1), dense.weight)
    assert torch.equal(model(x), expected)
    nn.set_binary_weights(model, True)
    assert not torch.equal(model(x), expected)


@pytest.mark.parametrize("training", [True, False])
def test_binary_linear_is_exact(training: bool, generator: torch.Generator) -> None:
    dense = nn.BinaryLinear(100, 7).train(training)
    x = _bits((3, 100), generator)
    integers = x.double() @ torch.where(dense.weight >= 0, 1, -1).double().T
    assert torch.equal(dense(x), integers.float() * dense.weight.abs().mean(dim=1))


def test_bad_arguments() -> None:
    with pytest.raises(ModelError, match="multiples of groups"):
        nn.BinaryConv2d(6, 8, 3, groups=4)
    with pytest.raises(ModelError, match="positive"):
        nn.BinaryConv2d(6, 8, 0)
    with pytest.raises(ModelError, match="positive"):
        nn.BinaryLinear(0, 8)
