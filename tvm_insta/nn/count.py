"""Counting multiply-accumulates and parameters of a network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tvm_insta.errors import ModelError
from tvm_insta.nn.blocks import BinaryNetwork
from tvm_insta.nn.conv import BinaryConv2d, BinaryLinear
from tvm_insta.nn.options import input_shape


@dataclass(frozen=True)
class LayerCount:
    """Counts of one convolution or dense layer, for one image.

    Attributes:
        name: Dotted name in the network.
        binary: Whether its weights have 1 bit.
        macs: Multiply-accumulates; padded positions count.
        output_shape: Shape of its result, without the batch.
    """

    name: str
    binary: bool
    macs: int
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class Counts:
    """Counts of a network, for one image.

    Attributes:
        binary_macs: Multiply-accumulates with 1-bit weights.
        float_macs: Those of float convolutions and dense layers; elementwise work, pooling and
            statistics are not counted.
        binary_parameters: Number of 1-bit weights.
        float_parameters: Number of other parameters, with one scale per output channel of every
            binary layer; running statistics are not counted.
        layers: Each convolution and dense layer, in order of execution.
    """

    binary_macs: int
    float_macs: int
    binary_parameters: int
    float_parameters: int
    layers: tuple[LayerCount, ...]


def count(model: nn.Module, shape: Sequence[int] | None = None) -> Counts:
    """Count a network's work and parameters; nothing is computed and the model is not changed.

    Args:
        model: A network.
        shape: Input shape without the batch; None takes that of a network of this package.

    Returns:
        The counts.

    Raises:
        ModelError: No shape was given for a network that does not tell its own.
    """
    if shape is None:
        if not isinstance(model, BinaryNetwork):
            raise ModelError(
                f"count got {type(model).__name__} without an input shape; give shape=(C, H, W)"
            )
        shape = input_shape(model.options.model)
    # On the meta device shapes are propagated without any arithmetic.
    ghost = copy.deepcopy(model).to("meta").eval()
    layers: list[LayerCount] = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            binary = isinstance(module, BinaryConv2d | BinaryLinear)
            weight = module.get_parameter("weight")
            macs = output[0].numel() * weight[0].numel()
            layers.append(LayerCount(name, binary, macs, tuple(output.shape[1:])))

        module.register_forward_hook(hook)

    for name, module in ghost.named_modules():
        if isinstance(module, BinaryConv2d | BinaryLinear | nn.Conv2d | nn.Linear):
            watch(name, module)
    with torch.no_grad():
        ghost(torch.empty(1, *shape, device="meta"))

    binary_layers = [m for m in model.modules() if isinstance(m, BinaryConv2d | BinaryLinear)]
    binary_parameters = sum(m.weight.numel() for m in binary_layers)
    scales = sum(m.weight.shape[0] for m in binary_layers)
    parameters = sum(p.numel() for p in model.parameters())
    return Counts(
        binary_macs=sum(layer.macs for layer in layers if layer.binary),
        float_macs=sum(layer.macs for layer in layers if not layer.binary),
        binary_parameters=binary_parameters,
        float_parameters=parameters - binary_parameters + scales,
        layers=tuple(layers),
    )
