"""``python -m tests.amx.float_choices``: the table of float layers of docs/amx.md."""

from __future__ import annotations

import copy
from collections import Counter

import torch

from tests.amx.choices import NAMES
from tvm_insta import nn
from tvm_insta.nn.options import input_shape
from tvm_insta.schedules import FloatLayer, FloatVariant
from tvm_insta.schedules.x86.amx_float_cost import AmxFloats

KINDS = ("int8", "bf16")


def float_layers(model: str) -> Counter[FloatLayer]:
    """The shapes of a network's float layers that may compute in narrow numbers, in order."""
    ghost = copy.deepcopy(nn.create(model)).to("meta").eval()
    found: list[FloatLayer] = []

    def watch(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Linear):
            out, channels = module.weight.shape
            found.append(FloatLayer((1, 1), channels, out, (1, 1), (1, 1), (0, 0, 0, 0)))
            return
        out, channels, *kernel = module.weight.shape
        (x,) = inputs
        top, left = module.padding
        image = tuple(x.shape[2:])
        padding = (top, left, top, left)
        found.append(FloatLayer(image, channels, out, tuple(kernel), module.stride, padding))

    for module in ghost.modules():
        if type(module) in (torch.nn.Conv2d, torch.nn.Linear):
            module.register_forward_hook(watch)
    with torch.no_grad():
        ghost(torch.empty(1, *input_shape(model), device="meta"))
    return Counter(layer for layer in found if layer.out_channels % 4 == 0)


def table() -> str:
    """Every shape of the three networks, what the model counts, and the variant that it chooses."""
    lines = [
        "| network | layer | float32 | int8, vectors | in tiles | computed | bf16, vectors "
        "| in tiles | computed |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | --- |",
    ]
    for model, name in NAMES.items():
        for layer in float_layers(model):
            cells = []
            for kind in KINDS:
                choice = AmxFloats(kind)
                counted = choice.counted(layer)
                if not cells:
                    cells.append(_us(counted[FloatVariant.FLOAT32]))
                cells += [
                    _us(counted[variant]) if variant in counted else "-"
                    for variant in (FloatVariant.VECTORS, FloatVariant.TILES)
                ]
                cells.append(choice(layer).value)
            lines.append(f"| {name} | {_text(layer)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _us(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _text(layer: FloatLayer) -> str:
    (height, width), (kernel, _), (stride, _) = layer.image, layer.kernel, layer.strides
    if layer.image == (1, 1):
        return f"{layer.channels} to {layer.out_channels}"
    text = f"{height}x{width}x{layer.channels}, {kernel}x{kernel} to {layer.out_channels}"
    return text if stride == 1 else f"{text}, stride {stride}"


if __name__ == "__main__":
    print(table())
