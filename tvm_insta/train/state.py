"""The state of a run after an epoch: everything that the next epoch depends on.

One safetensors file: no code is executed when it is read. Its bytes depend on the numbers alone (no
times, one entry of metadata), so that equal runs have equal files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from tvm_insta.errors import TrainError
from tvm_insta.runtime.files import write_atomically
from tvm_insta.train.options import Recipe

NAME = "state.safetensors"
_KEY = "tvm_insta.train"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """A run between two epochs.

    Attributes:
        recipe: How it is trained.
        epoch: Epochs that are done.
        data: What it is trained on, see `data_identity`.
        tensors: Parameters, buffers and moments of Adam by name.
    """

    recipe: Recipe
    epoch: int
    data: str
    tensors: dict[str, torch.Tensor]

    @property
    def within_step(self) -> bool:
        """Whether the next epoch goes on with the optimiser of the last one."""
        begins = (0, self.recipe.epochs[0], self.recipe.total_epochs)
        return self.epoch not in begins


def collect(model: nn.Module, optimiser: torch.optim.Optimizer | None) -> dict[str, torch.Tensor]:
    """Gather the tensors of a state.

    Args:
        model: The network.
        optimiser: Adam, or None where the next epoch begins with a new one.

    Returns:
        Contiguous CPU tensors by name.
    """
    found = {f"model.{name}": value for name, value in model.state_dict().items()}
    if optimiser is not None:
        names: dict[Any, str] = {parameter: name for name, parameter in model.named_parameters()}
        for parameter, moments in optimiser.state.items():
            for moment in (*_MOMENTS, "step"):
                found[f"adam.{moment}.{names[parameter]}"] = moments[moment]
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def save(path: Path, state: State) -> None:
    """Write a state.

    Args:
        path: In an existing folder; an older state there stays if writing fails.
        state: What to write.

    Raises:
        TrainError: The disk is full, or the folder cannot be written.
    """
    described = {"recipe": json.loads(state.recipe.to_json()), "epoch": state.epoch}
    text = json.dumps({**described, "data": state.data}, sort_keys=True)
    content = safetensors.torch.save(state.tensors, metadata={_KEY: text})
    try:
        write_atomically(path, content)
    except OSError as error:
        raise TrainError(
            f"the checkpoint {path} of epoch {state.epoch} cannot be written ({error}): make room "
            "and start the same command again, which goes on from the checkpoint before it"
        ) from error


def read(path: Path) -> State:
    """Read a state.

    Args:
        path: Of a file that `save` wrote.

    Raises:
        TrainError: It is damaged or of another kind.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            described: Any = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        epoch, data = int(described["epoch"]), str(described["data"])
        recipe = Recipe.from_mapping(described["recipe"], str(path))
    except Exception as error:
        # A damaged file makes the reader raise almost anything.
        raise TrainError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {error}): remove it to "
            "begin again, or put a copy of it back"
        ) from error
    return State(recipe, epoch, data, tensors)


def restore(state: State, model: nn.Module, optimiser: torch.optim.Optimizer | None) -> None:
    """Put a state into a network and its optimiser.

    Args:
        state: As read.
        model: Of the recipe's architecture; changed in place.
        optimiser: Adam over its parameters, or None to leave the moments out.

    Raises:
        TrainError: The tensors are not those of the network.
    """
    wanted = {n.removeprefix("model."): t for n, t in state.tensors.items() if n[:6] == "model."}
    try:
        model.load_state_dict(wanted)
    except RuntimeError as error:
        first = str(error).strip().replace("\n", " ")
        raise TrainError(f"the checkpoint does not fit {state.recipe.model}: {first}") from error
    if optimiser is None:
        return
    for name, parameter in model.named_parameters():
        if f"adam.step.{name}" not in state.tensors:
            continue
        optimiser.state[parameter] = {
            "step": state.tensors[f"adam.step.{name}"].to(parameter.device, copy=True)
        }
        for moment in _MOMENTS:
            # In the memory layout of the parameter: fused Adam goes over both as flat memory.
            mine = torch.empty_like(parameter, requires_grad=False)
            optimiser.state[parameter][moment] = mine.copy_(state.tensors[f"adam.{moment}.{name}"])
