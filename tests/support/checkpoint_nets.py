"""A small network, its parameters, and what a training script does to them."""

from __future__ import annotations

import collections
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tvm_insta import nn

State = dict[str, Any]


class Net(torch.nn.Module):
    """Small, with every kind of entry: weights, running statistics, counters, a buffer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        self.head = torch.nn.Linear(4, 5)
        self.register_buffer("levels", torch.zeros(2, dtype=torch.int64))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.state_dict().values():
                # Few bits, so that every float format holds them.
                value.copy_(torch.randint(1, 8, value.shape, generator=generator))


TRAINED = Net(1).state_dict()


def loaded(path: Path, **options: Any) -> tuple[State, str]:
    """State of a fresh network after loading, and what was said."""
    network = Net(2)
    note = nn.copy_into(network, nn.read_checkpoint(path), **options)
    return network.state_dict(), note


def floats(change: Callable[[torch.Tensor], object]) -> State:
    return {n: change(v) if v.is_floating_point() else v for n, v in TRAINED.items()}


def prefixed(prefix: str, state: State = TRAINED) -> State:
    return collections.OrderedDict((prefix + name, value) for name, value in state.items())


def without(*endings: str) -> State:
    return {n: v for n, v in TRAINED.items() if not n.endswith(endings)}


class Record:
    """What a framework puts into its checkpoints beside the parameters."""

    def __init__(self) -> None:
        self.value = 1


class Attributes(dict):  # type: ignore[type-arg]
    """A dict of a class of its own."""
