"""The residual blocks and networks against a second, flat description of the specification."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tvm_insta import nn
from tvm_insta.errors import ModelError
from tvm_insta.nn.blocks import LayerFactory, MobileNetBlock

State = dict[str, torch.Tensor]


def _bn(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)


def _bits(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    m3 = (x * x * x).mean(dim=(2, 3))
    threshold = state[f"{name}.a"] * m3 + state[f"{name}.b"]
    return torch.where(x >= threshold[:, :, None, None], 1.0, -1.0)


def _prelu(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    m3 = (x * x * x).mean(dim=(2, 3))
    shift = state[f"{name}.g1"] * m3 + state[f"{name}.g0"]
    y = F.prelu(x - shift[:, :, None, None], state[f"{name}.slope"])
    return y + state[f"{name}.z"].view(1, -1, 1, 1)


def _binary_conv(
    bits: torch.Tensor, state: State, name: str, stride: int, padding: int
) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    scale = weight.abs().mean(dim=(1, 2, 3), keepdim=True)
    signs = torch.where(weight >= 0, 1.0, -1.0)
    return F.conv2d(bits, signs, stride=stride, padding=padding) * scale.view(1, -1, 1, 1)


def _resnet(x: torch.Tensor, state: State, stages: int, blocks: int) -> torch.Tensor:
    for stage in range(1, stages + 1):
        for index in range(blocks):
            name = f"stage{stage}.{index}"
            shortcut = x
            if stage > 1 and index == 0:
                shortcut = F.avg_pool2d(x, 2, 2)
                shortcut = F.conv2d(shortcut, state[f"{name}.shortcut.1.weight"])
                shortcut = _bn(shortcut, state, f"{name}.shortcut.2")
            stride = 2 if shortcut is not x else 1
            bits = _bits(x, state, f"{name}.threshold")
            y = _binary_conv(bits, state, f"{name}.conv", stride, 1)
            x = _prelu(_bn(y, state, f"{name}.bn") + shortcut, state, f"{name}.prelu")
    return x


def _mobilenet(x: torch.Tensor, state: State) -> torch.Tensor:
    # Output channels as in the published layout: halving at blocks 2, 4, 6 and 12.
    for number, width in enumerate([64, 128, 128, 256, 256] + [512] * 6 + [1024] * 2, start=1):
        name, stride = f"block{number}", 2 if number in (2, 4, 6, 12) else 1
        shortcut = F.avg_pool2d(x, 2, 2) if stride == 2 else x
        bits = _bits(x, state, f"{name}.threshold1")
        y = _binary_conv(bits, state, f"{name}.conv1", stride, 1)
        x = _prelu(_bn(y, state, f"{name}.bn1") + shortcut, state, f"{name}.prelu1")
        bits = _bits(x, state, f"{name}.threshold2")
        halves = []
        for branch in range(width // x.shape[1]):
            y = _binary_conv(bits, state, f"{name}.conv2.{branch}", 1, 0)
            halves.append(_bn(y, state, f"{name}.bn2.{branch}") + x)
        x = _prelu(torch.cat(halves, dim=1), state, f"{name}.prelu2")
    return x


@pytest.mark.parametrize("model", nn.MODELS)
def test_network_is_what_the_specification_says(model: str, generator: torch.Generator) -> None:
    network = nn.create(model, "insta", num_classes=10)
    state = network.state_dict()
    image = torch.randn(2, 3, 32, 32, generator=generator)
    stem = {"resnet18": (2, 3), "mobilenet_v1": (2, 1), "resnet20": (1, 1)}[model]
    with torch.no_grad():
        x = F.conv2d(image, state["stem.conv.weight"], stride=stem[0], padding=stem[1])
        x = _bn(x, state, "stem.bn")
        if model == "resnet18":
            x = _resnet(F.max_pool2d(x, 3, 2, 1), state, stages=4, blocks=4)
        elif model == "resnet20":
            x = _resnet(x, state, stages=3, blocks=6)
        else:
            x = _mobilenet(x, state)
        logits = F.linear(x.mean(dim=(2, 3)), state["fc.weight"], state["fc.bias"])
        # The same operators in the same order: equal to the last bit.
        assert torch.equal(network(image), logits)


def test_the_shortcut_starts_before_the_binarisation(generator: torch.Generator) -> None:
    network = nn.create("resnet20", "baseline")
    block = network.get_submodule("stage1.0")
    x = torch.randn(1, 16, 8, 8, generator=generator)
    with torch.no_grad():
        block.get_parameter("bn.weight").zero_()  # only the shortcut is left
        block.get_parameter("bn.bias").zero_()
        y, statistic = block(x, None)
        assert statistic is None
        assert torch.equal(y, block.get_submodule("prelu")(x))


def test_mobilenet_channels_stay_or_double() -> None:
    factory = LayerFactory(nn.ModelOptions("mobilenet_v1", "insta", 10))
    with pytest.raises(ModelError, match="stay or double"):
        MobileNetBlock(factory, "block1", 32, 96, 1)
    with pytest.raises(ModelError, match="stride 3"):
        MobileNetBlock(factory, "block1", 32, 32, 3)
