"""Scales and offsets between a quantiser and a layer are taken behind the layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tvm_insta

SEED = 23
GENERATOR = torch.Generator().manual_seed(SEED)
TOKENS, CHANNELS, SIZE = 10, 40, 6


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR)


DENSE, KERNEL = normal(24, CHANNELS).sign() * 0.1, normal(8, CHANNELS, 3, 3).sign()
DEPTHWISE, OFFSET = normal(CHANNELS, 1, 3, 3).sign(), normal(CHANNELS)
STEPS = normal(TOKENS, 1).abs() + 0.5
OF_CHANNELS = OFFSET[:, None, None]


def two_bits(x):
    return torch.round(x.clamp(0, 1) * 3) / 3


ROWS = {
    "scale of a row": lambda x: F.linear(x.sign() * x.abs().mean(-1, keepdim=True), DENSE),
    "divisor of a row": lambda x: F.linear(x.sign() / (x.abs().amax(-1, keepdim=True) + 1), DENSE),
    "scale of the rows of a place": lambda x: F.linear(two_bits(x / STEPS) * STEPS, DENSE),
    "in front of a product": lambda x: (x.abs().mean(-1, keepdim=True) * two_bits(x)) @ DENSE.t(),
    "offset": lambda x: F.linear(x.sign() - OFFSET, DENSE, OFFSET[:24]),
    "offset of places": lambda x: F.linear(
        x.sign() + torch.linspace(-1, 1, TOKENS)[:, None], DENSE
    ),
    "scale, offset and scale": lambda x: F.linear(
        (two_bits(x) * STEPS + OFFSET) * x.abs().mean(-1, keepdim=True), DENSE
    ),
}
IMAGES = {
    "scale of an image": lambda x: F.conv2d(
        x.sign() * x.abs().mean((1, 2, 3), keepdim=True), KERNEL, padding=1
    ),
    "divisor of an image": lambda x: F.conv2d(
        x.sign() / x.abs().amax((1, 2, 3), keepdim=True), KERNEL, OFFSET[:8]
    ),
    "offset of channels": lambda x: F.conv2d(x.sign() + OF_CHANNELS, KERNEL, stride=2),
    "offset within zeros": lambda x: F.conv2d(two_bits(x) - OF_CHANNELS, KERNEL, padding=1),
    "offset, dilated": lambda x: F.conv2d(x.sign() + OF_CHANNELS, KERNEL, dilation=2),
    "offset of pixels": lambda x: F.conv2d(
        x.sign() + torch.linspace(-1, 1, SIZE**2).view(SIZE, SIZE), KERNEL, padding=(0, 2)
    ),
    "scale and offset, depthwise": lambda x: F.conv2d(
        x.sign() * OF_CHANNELS + OF_CHANNELS, DEPTHWISE, padding=1, groups=CHANNELS
    ),
}


class Network(nn.Module):
    """A layer for each function."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions

    def forward(self, x):
        return tuple(function(x) for function in self.functions.values())


@pytest.mark.parametrize(
    ("functions", "shape"),
    [(ROWS, (3, TOKENS, CHANNELS)), (IMAGES, (3, CHANNELS, SIZE, SIZE))],
    ids=["rows", "images"],
)
def test_layers_are_packed_and_pytorchs(functions, shape):
    x, network = normal(*shape), Network(functions)
    artefact = tvm_insta.build(network, x[:1], max_batch=3)
    packed = [layer.source.binary for layer in artefact.report.layers]
    assert dict(zip(functions, packed, strict=True)) == dict.fromkeys(functions, True)
    for name, own, theirs in zip(functions, artefact(x.numpy()), network(x), strict=True):
        error = (torch.from_numpy(own) - theirs).abs().max() / theirs.abs().max()
        assert error < 1e-6, f"{name}, seed {SEED}"  # sums of 360 products, in another order


def test_what_differs_within_a_sum_stays_before_the_layer():
    """Scales of input channels, of pixels, and offsets that the input decides."""
    functions = {
        "channels": lambda x: F.conv2d(x.sign() * OF_CHANNELS, KERNEL),
        "computed channels": lambda x: F.conv2d(
            x.sign() * x.abs().mean((2, 3), keepdim=True), KERNEL
        ),
        "pixels": lambda x: F.conv2d(x.sign() * x.abs().mean(1, keepdim=True), KERNEL),
        "offsets": lambda x: F.conv2d(x.sign() + x.abs().mean((2, 3), keepdim=True), KERNEL),
    }
    x, network = normal(3, CHANNELS, SIZE, SIZE), Network(functions)
    artefact = tvm_insta.build(network, x[:1], max_batch=3)
    assert not any(layer.source.binary for layer in artefact.report.layers)
    for own, theirs in zip(artefact(x.numpy()), network(x), strict=True):
        assert (torch.from_numpy(own) - theirs).abs().max() / theirs.abs().max() < 1e-6


REASONS = {
    # what is in front of a layer of signs: the reason that it stays float
    "batch norm": (lambda x: F.batch_norm(x, OFFSET, OFFSET.abs()), "(the result of batch_norm"),
    "layer norm": (lambda x: F.layer_norm(x, [SIZE]), "(the result of layer_norm"),
    "group norm": (lambda x: F.group_norm(x, 4), "(the result of group_norm"),
    "maximum": (lambda x: x.max(-1, keepdim=True)[0], "(the result of max"),
    "pool": (lambda x: F.max_pool2d(x, 2), "(the result of max_pool2d"),
    "8 bits of a row": (
        lambda x: (x / x.abs().amax(1, keepdim=True) * 127).round() / 127,
        "rounded to more than 16 levels",
    ),
    "scaled back": (
        lambda x: (
            (x * (127 / x.abs().amax(1, keepdim=True))).round().clamp(-128, 127)
            / (127 / x.abs().amax(1, keepdim=True))
        ),
        "rounded to more than 16 levels",
    ),
    "straight through": (
        lambda x: x + ((x * (99 / x.abs().amax(1, keepdim=True))).round() - x).detach(),
        "rounded to more than 16 levels",
    ),
}


def test_reasons_name_the_operator_or_say_what_was_rounded():
    functions = {
        name: lambda x, front=front: F.conv2d(front(x), KERNEL[..., :1])
        for name, (front, _) in REASONS.items()
    }
    artefact = tvm_insta.build(Network(functions), normal(1, CHANNELS, SIZE, SIZE), max_batch=1)
    for (name, (_, text)), layer in zip(REASONS.items(), artefact.report.layers, strict=True):
        assert text in layer.reason, f"{name}: {layer.reason}"
