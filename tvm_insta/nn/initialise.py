"""Parameters before any training: for training itself, or for measuring an untrained network.

Both draw from a generator of their own, so the global random state stays as it was.
"""

from __future__ import annotations

import torch
from torch import nn

from tvm_insta.nn.conv import BinaryConv2d, BinaryLinear
from tvm_insta.nn.messages import unknown
from tvm_insta.nn.prelu import InstaPReLU, RPReLU
from tvm_insta.nn.threshold import InstaThreshold, InstaThresholdPlus, RSign

INITS = ("training", "seeded")


def initialise(model: nn.Module, init: str, seed: int) -> None:
    """Set every parameter and running statistic of a network.

    Args:
        model: Changed in place.
        init: "training": weights are random, BN is the identity, and every instance-aware term is
            zero, so that the network computes what the baseline computes. "seeded": everything is
            random but small enough for activations to keep a scale near 1 through all layers, and
            the instance-aware terms take part: a network to measure and to validate with, which
            recognises nothing.
        seed: The same seed gives the same parameters.

    Raises:
        ModelError: The init is unknown.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            _draw_weights(module, generator)
        if init == "seeded":
            for module in model.modules():
                _draw_learned(module, generator)
            # A binary network is chaotic: one bit that rounding turns round turns others behind it,
            # and moves a logit by more than the best of 1000 random classes lead by. Exponential
            # offsets part the best two by 4 on average, however many there are, as training parts
            # the classes it has learned: else "the same class" would say nothing.
            model.get_submodule("fc").get_parameter("bias").exponential_(0.25, generator=generator)
        for module in model.modules():
            if isinstance(module, InstaThresholdPlus):
                # Training starts from zero; tanh of a full-size random block would swamp TH.
                module.fc2.weight.mul_(0.2 if init == "seeded" else 0.0)


def _draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw weights that give outputs of variance 1 for inputs of second moment 1."""
    if isinstance(module, BinaryConv2d | BinaryLinear):
        # The mean of |W| is half the bound: the scale is 1 / sqrt(fan-in).
        bound = 2.0 / module.weight[0].numel() ** 0.5
        module.weight.uniform_(-bound, bound, generator=generator)
    elif isinstance(module, nn.Conv2d | nn.Linear):
        bound = (3.0 / module.weight[0].numel()) ** 0.5
        module.weight.uniform_(-bound, bound, generator=generator)
        if module.bias is not None:
            module.bias.zero_()


def _draw_learned(module: nn.Module, generator: torch.Generator) -> None:
    """Draw what training would have learned, at a plausible size."""

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.uniform_(low, high, generator=generator)

    if isinstance(module, nn.BatchNorm2d):
        draw(module.weight, 0.5, 1.5)
        # One channel in ten has a negative gamma, which turns comparisons round.
        negative = torch.rand(module.weight.shape, generator=generator) < 0.1
        module.weight[negative] *= -1.0
        draw(module.bias, -0.3, 0.3)
        if module.running_mean is not None and module.running_var is not None:
            draw(module.running_mean, -0.3, 0.3)
            # Without BN's centring every block adds an offset per channel; a variance above the
            # true one keeps their sum in bounds over 26 layers.
            draw(module.running_var, 2.0, 4.0)
    elif isinstance(module, RSign):
        draw(module.b, -0.2, 0.2)
        if isinstance(module, InstaThreshold):
            draw(module.a, -0.05, 0.05)
        if isinstance(module, InstaThresholdPlus):
            # Small networks have one or two hidden units; a positive bias keeps them alive.
            draw(module.fc1.bias, 0.2, 1.0)
    elif isinstance(module, RPReLU):
        draw(module.g0, -0.2, 0.2)
        draw(module.slope, 0.15, 0.35)
        # A PReLU raises the mean; a trained shift brings it back, or bits would drift to 1.
        draw(module.z, -0.5, 0.0)
        if isinstance(module, InstaPReLU):
            # x - g1 x^3 draws large values in; a negative g1 would let them grow without bound.
            draw(module.g1, 0.002, 0.02)
