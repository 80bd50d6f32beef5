"""What is looked at once per epoch, on training images without distortion.

Two things: the size of the statistics (see `tvm_insta.train.coefficients`), and the share of
channels whose bit never changes. Such a channel tells the next convolution nothing; if many
channels are dead, thresholds have run away from their activations.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tvm_insta.nn import RSign
from tvm_insta.train.coefficients import Coefficients


class DeadChannels:
    """Counts channels of all binarisations that gave the same bit everywhere.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._hooks: list[Any] = []
        self._sums: dict[str, list[torch.Tensor]] = {}
        for name, module in model.named_modules():
            if isinstance(module, RSign):
                self._sums[name] = []
                self._hooks.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Any:
        def note(module: nn.Module, inputs: object, bits: torch.Tensor) -> None:
            del module, inputs
            dims = [d for d in range(bits.dim()) if d != 1]
            self._sums[name].append(bits.detach().float().mean(dim=dims))

        return note

    def share(self) -> float:
        """End the count and give the share of dead channels, 0 to 1."""
        for hook in self._hooks:
            hook.remove()
        dead = total = 0
        for means in self._sums.values():
            # A mean of +-1 values is exactly +-1 only if all are equal.
            same = torch.stack(means).mean(dim=0).abs() == 1.0
            dead += int(same.sum())
            total += same.numel()
        return dead / max(total, 1)


@contextmanager
def _batch_statistics(model: nn.Module) -> Any:
    """Normalise by the batch, as training does, but leave the running statistics alone."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    counts = [
        None if n.num_batches_tracked is None else n.num_batches_tracked.clone() for n in norms
    ]
    was_training = model.training
    model.train()
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count
        model.train(was_training)


def survey(model: nn.Module, batches: Iterable[torch.Tensor], coefficients: Coefficients) -> float:
    """Look at a network before an epoch.

    Args:
        model: The network; it stays as it is.
        batches: Inputs `[N, 3, H, W]`, a few batches.
        coefficients: Their divisors are set.

    Returns:
        Share of dead channels, 0 to 1.
    """
    dead = DeadChannels(model)
    with torch.no_grad(), _batch_statistics(model), coefficients.watch(model):
        for inputs in batches:
            model(inputs)
    return dead.share()
