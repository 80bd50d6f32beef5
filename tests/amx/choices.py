"""``python -m tests.amx.choices``: the table of docs/amx.md, what the cost model chooses."""

from __future__ import annotations

import copy
from collections import Counter

import torch

from tvm_insta import nn
from tvm_insta.nn.options import input_shape
from tvm_insta.schedules import BinaryLayer
from tvm_insta.schedules.x86.amx_cost import popcount_us, tiles_us
from tvm_insta.schedules.x86.variants import AmxTiles

NAMES = {"resnet18": "ResNet-18", "mobilenet_v1": "MobileNetV1", "resnet20": "ResNet-20"}


def binary_layers(model: str) -> Counter[BinaryLayer]:
    """The shapes of a network's binary convolutions, in order, and how many kernels have each.

    Convolutions of one tensor side by side are one, as the compiler makes them.
    """
    ghost = copy.deepcopy(nn.create(model)).to("meta").eval()
    found: list[tuple[torch.Tensor, BinaryLayer]] = []

    def watch(module: nn.BinaryConv2d, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        (x,) = inputs
        out, _, *kernel = module.weight.shape
        if found and found[-1][0] is x:
            out += found.pop()[1].out_channels
        stride, pad = (module.stride,) * 2, (module.padding,) * 4
        plain = module.groups == module.dilation == 1
        image = tuple(x.shape[2:])
        layer = BinaryLayer(image, x.shape[1], out, tuple(kernel), stride, pad, plain)
        found.append((x, layer))

    for module in ghost.modules():
        if isinstance(module, nn.BinaryConv2d):
            module.register_forward_hook(watch)
    with torch.no_grad():
        ghost(torch.empty(1, *input_shape(model), device="meta"))
    return Counter(layer for _, layer in found)


def table() -> str:
    """Every shape of the three networks, what the model counts, and the form that it chooses."""
    choice = AmxTiles()
    lines = [
        "| network | layer | how many | popcount | in tiles | weights | computed |",
        "| --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for model, name in NAMES.items():
        for layer, count in binary_layers(model).items():
            weights = choice.weights(layer)
            times = f"{_us(popcount_us(layer))} | {_us(tiles_us(layer, weights))}"
            form = "in tiles" if choice(layer) else "popcount"
            lines.append(
                f"| {name} | {_text(layer)} | {count} | {times} | {weights.value} | {form} |"
            )
    return "\n".join(lines)


def _us(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _text(layer: BinaryLayer) -> str:
    (height, width), (kernel, _), (stride, _) = layer.image, layer.kernel, layer.strides
    text = f"{height}x{width}x{layer.channels}, {kernel}x{kernel} to {layer.out_channels}"
    return text if stride == 1 else f"{text}, stride {stride}"


if __name__ == "__main__":
    print(table())
