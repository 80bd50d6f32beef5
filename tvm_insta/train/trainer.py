"""The run: both steps, epoch by epoch, from the last checkpoint on if there is one.

Everything random in an epoch comes from a generator that is seeded by the recipe's seed and the
number of the epoch. So nothing of a generator's state has to be kept, and a run that goes on from a
checkpoint computes what an uninterrupted one does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tvm_insta import nn as networks
from tvm_insta.errors import TrainError
from tvm_insta.train import history, state
from tvm_insta.train.learner import Learner
from tvm_insta.train.material import Material, find_material
from tvm_insta.train.optimiser import adam
from tvm_insta.train.options import Execution, Recipe
from tvm_insta.train.progress import Progress
from tvm_insta.train.start import with_start
from tvm_insta.train.world import World, joined

_log = logging.getLogger(__name__)

MODEL_NAME = "model.safetensors"
RECIPE_NAME = "recipe.json"
TRAINING_KEY = "tvm_insta.training"


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        model: The trained network, in evaluation mode.
        path: Its checkpoint, which `tvm_insta.nn.create` reads; None if the run stopped early.
        rows: The log.
        epoch: How many epochs are done; the log has a row for each unless it was damaged.
        test_accuracy: Of the trained network; None if the run stopped early.
        leads: Whether this is the process that writes and speaks for the run.
    """

    model: networks.BinaryNetwork
    path: Path | None
    rows: tuple[history.Row, ...]
    epoch: int
    test_accuracy: float | None
    leads: bool = True


def train(recipe: Recipe, execution: Execution, progress: Progress | None = None) -> Result:
    """Train a network, or go on with a run that was interrupted.

    Started by torchrun, each process calls this with the same arguments and learns from its share
    of every batch; process 0 writes the files.

    Args:
        recipe: How to train.
        execution: On what, where to, and by which means.
        progress: Told after every batch and epoch; None says nothing.

    Returns:
        The network and its log; the folder `execution.output` then holds log.csv, recipe.json,
        state.safetensors and model.safetensors.

    Raises:
        DataError: The data set is incomplete or damaged.
        ModelError: The recipe names no network.
        TrainError: The folder holds another run or cannot be written, or the numbers became NaN.
    """
    recipe = with_start(recipe, execution)
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    with joined(execution.device) as world:
        _make_folder(execution.output, world)
        told = progress if world.leads else None
        return _Run(recipe, execution, world, told).finish()


class _Run:
    """One process's part of a run."""

    def __init__(
        self, recipe: Recipe, execution: Execution, world: World, progress: Progress | None
    ) -> None:
        self.recipe, self.execution = recipe, execution
        self.world, self.progress = world, progress
        self.folder = execution.output
        found = self._found()
        self.material = self._material()
        self.identity = self.material.training.identity()
        self.learner = Learner(recipe, execution, world, self.material, progress)
        self.rows: list[history.Row] = []
        self.epoch = 0
        if found is not None:
            self._continue(found)

    def _material(self) -> Material:
        tell = None if self.progress is None else self.progress.part
        device = self.world.device
        if self.world.leads:
            found = find_material(self.recipe, self.execution, device, tell)
        self.world.wait()  # the others map what process 0 has decoded
        if not self.world.leads:
            found = find_material(self.recipe, self.execution, device, None)
        return found

    def _found(self) -> state.State | None:
        """Read the checkpoint of an earlier process, before anything that takes long."""
        path = self.folder / state.NAME
        if not path.exists():
            if any((self.folder / name).exists() for name in (history.NAME, MODEL_NAME)):
                raise TrainError(
                    f"{self.folder} holds results but no {state.NAME} to go on from: give another "
                    "--output, or remove them"
                )
            return None
        found = state.read(path)
        if found.recipe != self.recipe:
            raise TrainError(
                f"{self.folder} holds a run with {_differences(found.recipe, self.recipe)}: give "
                "another --output, or the recipe it was begun with"
            )
        return found

    def _continue(self, found: state.State) -> None:
        if found.data != self.identity:
            raise TrainError(
                f"{self.folder} holds a run on other training images: give the data it was begun "
                "with, or another --output"
            )
        self.epoch = found.epoch
        if found.within_step:
            decay = self.recipe.weight_decay[self.recipe.step_of(self.epoch)]
            self.learner.optimiser = adam(self.learner.model, decay)
        state.restore(found, self.learner.model, self.learner.optimiser)
        log = self.folder / history.NAME
        if log.exists():
            self.rows = [row for row in history.read(log) if row.epoch <= self.epoch]
        lost = sorted({*range(1, self.epoch + 1)} - {row.epoch for row in self.rows})
        if lost:
            _log.warning(
                "%s has no row of epoch %s: the run goes on without", log, ", ".join(map(str, lost))
            )

    def finish(self) -> Result:
        """Run the epochs that are left and write the network."""
        total, stop = self.recipe.total_epochs, self.execution.stop_after
        last = total if stop is None else min(total, stop)
        while self.epoch < last:
            self._one_epoch()
        model = self.learner.model.eval()
        networks.set_binary_weights(model, True)
        if self.epoch < total:
            return Result(model, None, tuple(self.rows), self.epoch, None, self.world.leads)
        path = self.folder / MODEL_NAME
        # A log that lost its end has no accuracy of the trained network.
        ended = bool(self.rows) and self.rows[-1].epoch == total
        reached = self.rows[-1].test_accuracy if ended else self.learner.test_accuracy()
        if self.world.leads:
            networks.save_checkpoint(
                model,
                path,
                preprocessing=self.material.description,
                metadata={TRAINING_KEY: json.dumps(self._record(reached), sort_keys=True)},
            )
        self.world.wait()
        return Result(model, path, tuple(self.rows), total, reached, self.world.leads)

    def _one_epoch(self) -> None:
        started = time.monotonic()
        passed = self.learner.learn(self.epoch)
        self.epoch += 1
        step_ends = self.epoch in (self.recipe.epochs[0], self.recipe.total_epochs)
        tested = None
        if step_ends or self.epoch % self.execution.test_every == 0:
            tested = self.learner.test_accuracy()
        if step_ends:
            self.learner.optimiser = None  # the second step begins with a new one
        row = history.Row(
            epoch=self.epoch,
            weights=("real", "binary")[self.recipe.step_of(self.epoch - 1)],
            learning_rate=passed.learning_rate,
            loss=passed.loss,
            train_accuracy=passed.accuracy,
            test_accuracy=tested,
            dead_share=passed.dead_share,
            seconds=time.monotonic() - started,
        )
        self.rows.append(row)
        if self.world.leads:
            self._keep(row)
        self.world.wait()

    def _keep(self, row: history.Row) -> None:
        tensors = state.collect(self.learner.model, self.learner.optimiser)
        history.write_recipe(self.folder / RECIPE_NAME, self.recipe)
        # The log first: a row too many is dropped by the run that goes on.
        history.write(self.folder / history.NAME, self.rows)
        if self.execution.tensorboard:
            history.write_tensorboard(self.folder, row)
        kept = state.State(self.recipe, self.epoch, self.identity, tensors)
        state.save(self.folder / state.NAME, kept)
        if self.progress is not None:
            seen = "" if row.test_accuracy is None else f", test {row.test_accuracy:.2%}"
            self.progress.line(
                f"epoch {row.epoch}/{self.recipe.total_epochs}, {row.weights} weights: loss "
                f"{row.loss:.4f}, training {row.train_accuracy:.2%}{seen}, dead channels "
                f"{row.dead_share:.1%}, {row.seconds:.0f} s",
                self.epoch,
            )

    def _record(self, test_accuracy: float | None) -> dict[str, Any]:
        """Tell how the network was made, for its checkpoint."""
        return {
            "recipe": json.loads(self.recipe.to_json()),
            "training_images": len(self.material.training),
            "test_images": len(self.material.test),
            "test_accuracy": test_accuracy,
        }


def _make_folder(folder: Path, world: World) -> None:
    try:
        if world.leads:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(
            f"the folder {folder} cannot be made ({error}): give another --output"
        ) from error
    world.wait()


def _differences(found: Recipe, given: Recipe) -> str:
    return ", ".join(
        f"{one.name} {getattr(found, one.name)!r} (not {getattr(given, one.name)!r})"
        for one in dataclasses.fields(Recipe)
        if getattr(found, one.name) != getattr(given, one.name)
    )


def trained_accuracy(folder: Path) -> tuple[int, float]:
    """Read what a finished run reached.

    Args:
        folder: Its output.

    Returns:
        Its seed and the test accuracy after its last epoch.

    Raises:
        TrainError: The run is not finished, or its files are damaged.
    """
    recipe = state.read(folder / state.NAME).recipe
    rows = history.read(folder / history.NAME)
    if not rows:
        raise TrainError(f"{folder / history.NAME} has no row: put a copy of it back")
    last = rows[-1]
    if last.epoch != recipe.total_epochs or last.test_accuracy is None:
        raise TrainError(
            f"the run {folder} is at epoch {last.epoch} of {recipe.total_epochs}: finish it first"
        )
    return recipe.seed, last.test_accuracy
