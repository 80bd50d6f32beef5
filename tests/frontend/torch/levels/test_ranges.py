"""No element lies outside of the range that is known of its tensor."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.frontend.torch.graphs import exported, values
from tvm_insta.frontend.torch.graph import is_tensor
from tvm_insta.frontend.torch.levels.ranges import Range

X = torch.zeros(2, 4, 6, 6)
BOUNDED = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu6": F.relu6,
    "sign": torch.sign,
    "softmax": lambda x: F.softmax(x, 1),
    "hardsigmoid": F.hardsigmoid,
    "above half": lambda x: torch.sigmoid(x) * 0.45 + 0.5,
    "negative": lambda x: -torch.sigmoid(x) - 1.0,
    "cosine": lambda x: torch.cos(x).clamp(-0.7, 0.3),
}
USES = {
    "view": lambda y: y.reshape(-1, 12, 2, 6),
    "roll": lambda y: y.roll(1, 2) + 0.25,
    "flip": lambda y: y.flip(1),
    "repeat": lambda y: y.repeat(1, 2, 1, 1),
    "nearest": lambda y: F.interpolate(y, scale_factor=2.0),
    "shuffle": lambda y: F.pixel_shuffle(y, 2),
    "index": lambda y: y.index_select(1, torch.tensor([3, 0])),
    "max": lambda y: F.max_pool2d(y, 3, padding=1),
    "largest": lambda y: F.adaptive_max_pool2d(y, 2),
    "amax": lambda y: y.amax(1),
    "amin": lambda y: y.amin((2, 3)),
    "mean": lambda y: y.mean((2, 3)),
    "average": lambda y: F.avg_pool2d(y, 3),
    "average of a padded image": lambda y: F.avg_pool2d(y, 3, 2, 1),
    "average, uncounted": lambda y: F.avg_pool2d(y, 3, 2, 1, count_include_pad=False),
    "divisor of 1": lambda y: F.avg_pool2d(y, 2, divisor_override=1),
    "divisor of 3": lambda y: F.avg_pool2d(y, 2, divisor_override=3),
    "negative divisor": lambda y: F.avg_pool2d(y, 2, divisor_override=-2),
    "adaptive average": lambda y: F.adaptive_avg_pool2d(y, 4),
    "round": lambda y: torch.round(y * 3),
    "round to tenths": lambda y: torch.round(y, decimals=1),
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "clamp": lambda y: y.clamp(0.1, 0.6),
    "clamp above": lambda y: y.clamp(min=0.75),
    "hardtanh": lambda y: F.hardtanh(y, -0.5, 0.25),
    "integers": lambda y: y.int(),
    "bytes": lambda y: (y.abs() * 300).int().to(torch.uint8),
    "short": lambda y: y.to(torch.int8).float(),
    "half": lambda y: (y * 0.99999).half().float(),
    "bfloat16": lambda y: (y * 0.999).bfloat16().float(),
    "double": lambda y: y.double() - 1e-12,
    "truth": lambda y: y.to(torch.bool).float(),
    "relu": F.relu,
    "abs": torch.abs,
    "exp": torch.exp,
    "square": torch.square,
    "exp that vanishes and overflows": lambda y: torch.cat([torch.exp(y * s) for s in (-300, 300)]),
    "sigmoid that vanishes": lambda y: torch.sigmoid(y * 500),
    "negative of it": lambda y: -y,
    "exp of a negative": lambda y: torch.exp(-y.abs() * 3.7),
    "sigmoid of it": lambda y: torch.sigmoid(y * 5 - 1),
    "tanh of it": lambda y: torch.tanh(y - 0.2),
    "maximum": lambda y: torch.maximum(y, y.roll(1, 2) * 0.5),
    "minimum": lambda y: torch.minimum(y, torch.tensor(0.1)),
    "choice": lambda y: torch.where(y > 0.2, y - 1.0, y.abs()),
    "side by side": lambda y: torch.cat([y, y * -2.0 + 0.1], 1),
    "stacked": lambda y: torch.stack([y, y.int().float()], 1),
    "root": lambda y: torch.sqrt(y.abs()),
    "plus": lambda y: y + 0.3,
    "twice": lambda y: y + y,
    "with a factor": lambda y: torch.add(y, y, alpha=3),
    "minus": lambda y: 1.0 - y,
    "minus with a factor": lambda y: torch.sub(y, 1.0, alpha=2),
    "product": lambda y: y * y.roll(1, 1),
    "negative product": lambda y: y * -3.5,
    "quotient": lambda y: y / 0.7,
    "quotient of a tensor": lambda y: y / (y.abs() + 0.5),
    "floored quotient": lambda y: torch.div(y, 0.3, rounding_mode="floor"),
    "written": lambda y: torch.zeros_like(y).copy_(y.mean((1, 2, 3), keepdim=True)),
    "written as integers": lambda y: torch.zeros_like(y, dtype=torch.int32).copy_(y * 2),
}


def inputs():
    generator = torch.Generator().manual_seed(3)
    shape = (16, *X.shape[1:])
    sizes = torch.tensor([1e-6, 1e-2, 1.0, 3.0, 10.0, 1e3, 1e30, 0.0]).repeat(2)
    yield torch.randn(shape, generator=generator) * sizes[:, None, None, None]
    yield torch.full(shape, 40.0)
    yield torch.full(shape, -40.0)


@pytest.mark.parametrize("name", USES)
def test_no_element_lies_outside(name):
    """All of a graph's tensors are looked at, those between the first and the last, too."""

    def function(x):
        return tuple(USES[name](bounded(x)) for bounded in BOUNDED.values())

    graph, ranges = exported(function, X), Range()
    for x in inputs():
        for node, value in values(graph, x).items():
            if is_tensor(node) and not value.is_complex() and value.numel():
                low, high = ranges.of(node)
                found = value.double()
                assert low <= float(found.min()) and float(found.max()) <= high, node.format_node()
