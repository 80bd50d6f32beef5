"""Scales of input channels: moved behind depthwise layers, else named in the reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.frontend.torch.graphs import exported
from tvm_insta.frontend.layers import Reason
from tvm_insta.frontend.torch.levels.layers import rewrite_layers

CHANNELS = 24
SCALES = torch.linspace(0.5, 1.5, CHANNELS)


def signs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)).sign()


def image():
    return torch.randn(2, CHANNELS, 6, 5, generator=torch.Generator().manual_seed(1))


def rewritten(function):
    graph = exported(function, image())
    return graph, rewrite_layers(graph).layers


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("shape", [(1, CHANNELS, 1, 1), (CHANNELS, 1, 1)])
@pytest.mark.parametrize("left", [False, True])
def test_scales_move_behind_a_depthwise_layer(multiplier, shape, left):
    weight, bias = (
        signs(CHANNELS * multiplier, 1, 3, 3),
        torch.linspace(-1, 1, CHANNELS * multiplier),
    )
    scale = SCALES.reshape(shape)

    def function(x):
        x = scale * torch.sign(x) if left else torch.sign(x) * scale
        return F.conv2d(x, weight, bias, padding=1, groups=CHANNELS)

    graph, [layer] = rewritten(function)
    assert layer.binary, layer.why_float
    torch.testing.assert_close(graph(image()), function(image()), rtol=1e-6, atol=1e-5)


def reasons(function):
    graph, [layer] = rewritten(function)
    torch.testing.assert_close(graph(image()), function(image()), rtol=1e-6, atol=1e-5)
    return [why.code for why in layer.why_float]


def test_scaled_levels_of_other_layers_stay_float():
    weight = signs(8, CHANNELS, 3, 3)
    for change in (lambda x: x * SCALES.view(-1, 1, 1), lambda x: x / SCALES.view(1, -1, 1, 1)):
        found = reasons(lambda x, change=change: F.conv2d(change(torch.sign(x)), weight))
        assert found == [Reason.CHANNEL_LEVELS]


def test_weights_scaled_by_input_channels_stay_float():
    weight = signs(8, CHANNELS, 3, 3) * SCALES.view(1, -1, 1, 1)
    assert reasons(lambda x: F.conv2d(torch.sign(x), weight)) == [Reason.INPUT_CHANNEL_SCALES]
    dense = signs(8, CHANNELS) * SCALES
    pooled = reasons(lambda x: F.linear(torch.sign(x.mean((2, 3))), dense))
    assert pooled == [Reason.INPUT_CHANNEL_SCALES]
    pairs = signs(8, CHANNELS, 3, 3) * (1 + torch.rand(8, CHANNELS, 1, 1))
    assert reasons(lambda x: F.conv2d(torch.sign(x), pairs)) == [Reason.INPUT_CHANNEL_SCALES]
    real = torch.randn(8, CHANNELS, 3, 3)
    assert reasons(lambda x: F.conv2d(torch.sign(x), real)) == [Reason.REAL_WEIGHTS]
