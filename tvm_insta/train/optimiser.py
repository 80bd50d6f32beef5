"""Adam, and a learning rate that rises for a moment and then falls linearly to 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tvm_insta.nn import BinaryConv2d, BinaryLinear


def adam(model: nn.Module, weight_decay: float) -> torch.optim.Adam:
    """Make the optimiser of one step.

    Args:
        model: The network.
        weight_decay: L2 term on weights of convolutions and dense layers; thresholds, slopes, BN
            and biases have none.
    """
    weights = [
        module.weight
        for module in model.modules()
        if isinstance(module, BinaryConv2d | BinaryLinear | nn.Conv2d | nn.Linear)
    ]
    known = {id(weight) for weight in weights}
    others = [p for p in model.parameters() if id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others},
    ]
    return torch.optim.Adam(groups, lr=0.0, fused=True)


def learning_rate(peak: float, position: float, warmup: float) -> float:
    """Give the learning rate at a moment of a step.

    Args:
        peak: The largest.
        position: From 0 at the beginning of the step to 1 at its end.
        warmup: Share of the step in which it rises from 0 to the peak.
    """
    if position < warmup:
        return peak * position / warmup
    return peak * (1 - position) / (1 - warmup) if warmup < 1 else peak
