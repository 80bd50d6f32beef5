"""The state dicts in a checkpoint file: alone, under a key, or several of them side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from tvm_insta.nn.torch_file import as_tensor, module_class

_DEPTH = 3  # {"ema": {"module": {...}}} is the deepest form in common use
# Where training scripts keep the parameters; the first of them that is there is meant.
_USUAL = (
    "",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "net_state_dict",
    "module",
    "weights",
    "params",
)
# Copies beside the parameters: running averages, and the teacher of a distillation.
_SECOND = {"ema", "avg", "average", "averaged", "swa", "shadow", "teacher"}


@dataclass(frozen=True)
class StateDict:
    """One state dict of a file.

    Attributes:
        key: Where it is, such as "state_dict" or "ema.module"; empty for the file itself.
        tensors: On the CPU, by name.
        numbers: Entries that are Python or NumPy numbers.
        others: Names of the entries that are neither.
    """

    key: str
    tensors: Mapping[str, torch.Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def find_state_dicts(loaded: object) -> list[StateDict]:
    """Every dict with tensors in what a file holds, those of the usual places first."""
    found: list[StateDict] = []
    _collect(loaded, "", _DEPTH, found)
    return sorted(found, key=lambda state: rank(state.key))


def _collect(value: object, key: str, depth: int, found: list[StateDict]) -> None:
    if not isinstance(value, dict) or module_class(value) is not None:
        return
    entries = {name: item for name, item in value.items() if isinstance(name, str)}
    tensors = {name: as_tensor(item) for name, item in entries.items()}
    known = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    rest = {name: item for name, item in entries.items() if name not in known}
    if known:
        numbers = {name: item for name, item in rest.items() if isinstance(item, int | float)}
        others = tuple(name for name in rest if name not in numbers)
        found.append(StateDict(key, known, numbers, others))
    if depth:
        for name, item in rest.items():
            _collect(item, f"{key}.{name}" if key else name, depth - 1, found)


def pickled_modules(loaded: object) -> list[str]:
    """Classes of the pickled modules that a file is, or has under a key."""
    values = [loaded, *(loaded.values() if isinstance(loaded, dict) else ())]
    return [name for name in map(module_class, values) if name is not None]


def rank(key: str) -> int:
    """How likely a key of a file holds the parameters that are meant; 0 is the likeliest."""
    if is_second(key):
        return len(_USUAL) + 1
    return _USUAL.index(key) if key in _USUAL else len(_USUAL)


def is_second(key: str) -> bool:
    """Whether a key or prefix names a copy of the parameters, such as their running average."""
    return bool(_SECOND & set(re.split(r"[^a-z]+", key.lower())))
