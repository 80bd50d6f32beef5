"""The run: both steps, epoch by epoch, from the last checkpoint on if there is one.

Everything random in an epoch comes from a generator that is seeded by the recipe's seed and the
number of the epoch. So nothing of a generator's state has to be kept, and a run that goes on from a
checkpoint computes what an uninterrupted one does.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tvm_insta import nn as networks
from tvm_insta.errors import TrainError
from tvm_insta.train import fused, history, state
from tvm_insta.train.coefficients import Coefficients
from tvm_insta.train.data import distort
from tvm_insta.train.data.resident import Images, load
from tvm_insta.train.loss import Loss
from tvm_insta.train.optimiser import adam, learning_rate
from tvm_insta.train.options import Execution, Recipe
from tvm_insta.train.progress import Progress
from tvm_insta.train.survey import survey

MODEL_NAME = "model.safetensors"
_TEST_BATCH = 250
_SURVEY_BATCHES, _SURVEY_BATCH = 2, 256


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        model: The trained network, in evaluation mode.
        path: Its checkpoint, which `tvm_insta.nn.create` reads; None if the run stopped early.
        rows: The log.
    """

    model: networks.BinaryNetwork
    path: Path | None
    rows: tuple[history.Row, ...]


def train(
    data: Path, recipe: Recipe, execution: Execution, progress: Progress | None = None
) -> Result:
    """Train a network, or go on with a run that was interrupted.

    Args:
        data: Folder or zip file, see `tvm_insta.train.data.listing.find`.
        recipe: How to train.
        execution: Where to, and on what.
        progress: Told after every batch and epoch; None says nothing.

    Returns:
        The network and its log; the folder `execution.output` then holds log.csv, state.safetensors
        and model.safetensors.

    Raises:
        DataError: The data set is incomplete or damaged.
        ModelError: The recipe names no network.
        TrainError: The folder holds another run or cannot be written, or the numbers became NaN.
    """
    if execution.threads is not None:
        torch.set_num_threads(execution.threads)
    try:
        execution.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(
            f"the folder {execution.output} cannot be made ({error}): give another --output"
        ) from error
    run = _Run(data, recipe, execution, progress)
    return run.finish()


class _Run:
    """One process's part of a run."""

    def __init__(
        self, data: Path, recipe: Recipe, execution: Execution, progress: Progress | None
    ) -> None:
        self.recipe, self.execution, self.progress = recipe, execution, progress
        self.device = _device(execution.device)
        size = networks.input_shape(recipe.model)[-1]
        self.training = load(data, "train", size, cache=execution.cache, limit=execution.limit)
        self.test = load(data, "test", size, cache=execution.cache)
        self.batches = len(self.training) // recipe.batch
        _check(self.training, self.test, recipe)
        self.identity = data_identity(self.training)
        self.description = _describe(recipe.model, self.training)
        self.mean = torch.tensor(self.description["mean"])
        self.std = torch.tensor(self.description["std"])
        self.padded = distort.pad(self.training.pixels, recipe.padding)
        options = networks.ModelOptions(
            recipe.model,
            recipe.variant,
            len(self.training.classes),
            recipe.select,
            recipe.reuse_statistics,
            recipe.statistic,
        )
        self.model = networks.build(options, init="training", seed=recipe.seed)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        _set_precision(self.model, recipe.precision)
        fused.fuse_batch_norms(self.model)
        if execution.compile:
            fused.compile_blocks(self.model)
        self.loss = Loss(recipe, execution.teacher, options.num_classes, self.device)
        self.coefficients = Coefficients(self.model, recipe.instance_rate)
        self.optimiser: torch.optim.Adam | None = None
        self.rows: list[history.Row] = []
        self.epoch = 0
        self._resume()

    def _resume(self) -> None:
        path = self.execution.output / state.NAME
        log = self.execution.output / history.NAME
        if not path.exists():
            if log.exists() or (self.execution.output / MODEL_NAME).exists():
                raise TrainError(
                    f"{self.execution.output} holds results but no {state.NAME} to go on from: "
                    "give another --output, or remove them"
                )
            return
        found = state.read(path)
        if found.recipe != self.recipe:
            raise TrainError(
                f"{self.execution.output} holds a run with {_differences(found.recipe, self.recipe)}"
                ": give another --output, or the recipe it was begun with"
            )
        if found.data != self.identity:
            raise TrainError(
                f"{self.execution.output} holds a run on other training images: give the data it "
                "was begun with, or another --output"
            )
        self.epoch = found.epoch
        within = 0 < self.epoch < self.recipe.total_epochs and (
            self.recipe.step_of(self.epoch) == self.recipe.step_of(self.epoch - 1)
        )
        if within:
            self.optimiser = adam(
                self.model, self.recipe.weight_decay[self.recipe.step_of(self.epoch)]
            )
        state.restore(found, self.model, self.optimiser)
        if log.exists():
            self.rows = [row for row in history.read(log) if row.epoch <= self.epoch]

    def finish(self) -> Result:
        """Run the epochs that are left and write the network."""
        total, begun = self.recipe.total_epochs, self.epoch
        while self.epoch < total:
            if self.execution.stop_after is not None:
                if self.epoch - begun >= self.execution.stop_after:
                    return Result(self.model.eval(), None, tuple(self.rows))
            self._one_epoch()
        networks.set_binary_weights(self.model, True)
        self.model.eval()
        path = self.execution.output / MODEL_NAME
        networks.save_checkpoint(
            self.model,
            path,
            preprocessing=self.description,
            metadata={"tvm_insta.training": json.dumps(self._record(), sort_keys=True)},
        )
        return Result(self.model, path, tuple(self.rows))

    def _one_epoch(self) -> None:
        started = time.monotonic()
        recipe, epoch = self.recipe, self.epoch
        step = recipe.step_of(epoch)
        networks.set_binary_weights(self.model, step == 1)
        if self.optimiser is None:
            self.optimiser = adam(self.model, recipe.weight_decay[step])
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        with fused.uncompiled():
            dead = survey(self.model, self._survey_batches(generator), self.coefficients)
        self.model.train()
        rate, loss, right = self._pass(step, generator)
        last = epoch + 1 in (recipe.epochs[0], recipe.total_epochs)
        tested = None
        if last or (epoch + 1) % self.execution.test_every == 0:
            tested = self.accuracy()
        self.epoch += 1
        row = history.Row(
            epoch=self.epoch,
            weights=("real", "binary")[step],
            learning_rate=rate,
            loss=loss,
            train_accuracy=right,
            test_accuracy=tested,
            dead_share=dead,
            seconds=time.monotonic() - started,
        )
        if self.epoch == recipe.epochs[0]:
            self.optimiser = None  # the second step begins with a new one
        self._keep(row)

    def _keep(self, row: history.Row) -> None:
        self.rows.append(row)
        folder = self.execution.output
        tensors = state.collect(self.model, self.optimiser)
        # The log first: a row too many is dropped by the run that goes on.
        history.write(folder / history.NAME, self.rows)
        state.save(
            folder / state.NAME, state.State(self.recipe, self.epoch, self.identity, tensors)
        )
        if self.progress is not None:
            seen = "" if row.test_accuracy is None else f", test {row.test_accuracy:.2%}"
            self.progress.line(
                f"epoch {row.epoch}/{self.recipe.total_epochs}, {row.weights} weights: loss "
                f"{row.loss:.4f}, training {row.train_accuracy:.2%}{seen}, dead channels "
                f"{row.dead_share:.1%}, {row.seconds:.0f} s",
                self.epoch,
            )

    def _pass(self, step: int, generator: torch.Generator) -> tuple[float, float, float]:
        """Learn from every image once; returns learning rate at the beginning, loss, accuracy."""
        recipe, optimiser = self.recipe, self.optimiser
        assert optimiser is not None
        order = torch.randperm(len(self.training), generator=generator)
        done_before = self.epoch - (recipe.epochs[0] if step else 0)
        size = self.training.pixels.shape[-1]
        loss_sum, right, first_rate = 0.0, 0, 0.0
        parameters = list(self.model.parameters())
        for index in range(self.batches):
            position = (done_before + index / self.batches) / recipe.epochs[step]
            rate = learning_rate(recipe.learning_rate[step], position, recipe.warmup)
            first_rate = rate if index == 0 else first_rate
            for group in optimiser.param_groups:
                group["lr"] = rate
            chosen = order[index * recipe.batch : (index + 1) * recipe.batch]
            pixels = distort.crop_and_flip(
                self.padded, chosen, size, flip=recipe.flip, generator=generator
            )
            inputs = self._inputs(pixels)
            labels = self.training.labels[chosen].to(self.device)
            logits = self.model(inputs)
            loss = self.loss(logits, labels, inputs)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.coefficients.before_step()
            nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimiser.step()
            self.coefficients.after_step()
            value = float(loss.detach())
            if value != value or value in (float("inf"), float("-inf")):
                raise TrainError(
                    f"the loss became {value} in epoch {self.epoch + 1}: lower the learning rate "
                    f"{list(recipe.learning_rate)}; the checkpoint of the epoch before stays in "
                    f"{self.execution.output}"
                )
            loss_sum += value
            right += int((logits.detach().argmax(dim=1) == labels).sum())
            if self.progress is not None:
                seen = (index + 1) * recipe.batch
                self.progress.batch(
                    self.epoch + (index + 1) / self.batches, loss_sum / (index + 1), right / seen
                )
        return first_rate, loss_sum / self.batches, right / (self.batches * recipe.batch)

    def accuracy(self) -> float:
        """Classify all test images in evaluation mode, in float32 and without compilation."""
        self.model.eval()
        right = 0
        with torch.no_grad(), fused.uncompiled():
            for start in range(0, len(self.test), _TEST_BATCH):
                chosen = slice(start, start + _TEST_BATCH)
                logits = self.model(self._inputs(self.test.pixels[chosen]))
                right += int((logits.argmax(dim=1).cpu() == self.test.labels[chosen]).sum())
        return right / len(self.test)

    def _inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        return distort.normalise(pixels.to(self.device), self.mean.to(self.device),
                                 self.std.to(self.device))

    def _survey_batches(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        count = min(len(self.training), _SURVEY_BATCHES * _SURVEY_BATCH)
        chosen = torch.randperm(len(self.training), generator=generator)[:count]
        for part in chosen.split(_SURVEY_BATCH):
            if len(part) > 1:
                yield self._inputs(self.training.pixels[part])

    def _record(self) -> dict[str, Any]:
        """Tell how the network was made, for its checkpoint."""
        last = self.rows[-1] if self.rows else None
        return {
            "recipe": json.loads(self.recipe.to_json()),
            "training_images": len(self.training),
            "test_images": len(self.test),
            "test_accuracy": None if last is None else last.test_accuracy,
        }


def data_identity(images: Images) -> str:
    """Tell training sets apart, in a few words that do not depend on where they lie.

    Args:
        images: The training images.
    """
    pixels = images.pixels
    # Sums over bytes: cheap, and equal only for equal images in practice.
    weights = torch.arange(1, len(pixels) + 1) % 1_000_003
    sums = pixels.flatten(1).to(torch.int64).sum(dim=1) if len(pixels) < 1 else torch.stack(
        [part.to(torch.int64).sum(dim=(1, 2, 3)).dot(weight) for part, weight in
         zip(pixels.split(1000), weights.split(1000), strict=True)]
    )
    return f"{len(pixels)} images, {len(images.classes)} classes, sum {int(sums.sum())}"


def _device(asked: str) -> torch.device:
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if asked == "cuda" and not torch.cuda.is_available():
        raise TrainError("got device cuda, but PyTorch finds none here: give --device cpu")
    if asked not in ("cpu", "cuda"):
        raise TrainError(f"got device {asked!r}, but allowed are cpu, cuda and auto")
    return torch.device(asked)


def _check(training: Images, test: Images, recipe: Recipe) -> None:
    if training.classes != test.classes:
        odd = sorted(set(training.classes) ^ set(test.classes))
        raise TrainError(
            f"the class {odd[0]} is in one of the training and test images only: both splits must "
            "have the same classes"
        )
    if len(training) < recipe.batch:
        raise TrainError(
            f"got batches of {recipe.batch}, but there are {len(training)} training images: give a "
            "smaller batch"
        )


def _describe(model: str, images: Images) -> dict[str, Any]:
    """Describe the preprocessing: the model's own, with mean and deviation of these images."""
    sample = images.pixels[:: max(1, len(images) // 10_000)].float() / 255
    mean, std = sample.mean(dim=(0, 2, 3)), sample.std(dim=(0, 2, 3))
    return networks.preprocessing(model) | {
        "mean": [round(float(value), 4) for value in mean],
        "std": [round(max(float(value), 1e-3), 4) for value in std],
        "classes": list(images.classes),
    }


def _set_precision(model: nn.Module, precision: str) -> None:
    for module in model.modules():
        if isinstance(module, networks.BinaryConv2d):
            module.training_dtype = torch.bfloat16 if precision == "bf16" else None


def _differences(found: Recipe, given: Recipe) -> str:
    return ", ".join(
        f"{one.name} {getattr(found, one.name)!r} (not {getattr(given, one.name)!r})"
        for one in dataclasses.fields(Recipe)
        if getattr(found, one.name) != getattr(given, one.name)
    )
