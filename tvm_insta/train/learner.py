"""One network and its optimiser: passes over the training images, and tests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tvm_insta import nn as networks
from tvm_insta.errors import TrainError
from tvm_insta.train import fused
from tvm_insta.train.coefficients import Coefficients
from tvm_insta.train.loss import Loss
from tvm_insta.train.material import Material
from tvm_insta.train.optimiser import adam, learning_rate
from tvm_insta.train.options import Execution, Recipe
from tvm_insta.train.progress import Progress
from tvm_insta.train.start import take_parameters
from tvm_insta.train.survey import survey
from tvm_insta.train.world import World

_TEST_BATCH = 250
_SURVEY_BATCHES, _SURVEY_BATCH = 2, 256
# Updates between two measurements of the statistics: their growth is a third power of that of the
# activations.
_MEASURE_EVERY = 25


@dataclass(frozen=True)
class Passed:
    """What one pass over the training images showed.

    Attributes:
        learning_rate: At its beginning.
        loss: Mean.
        accuracy: Share of right answers while learning.
        dead_share: Share of dead channels before it.
    """

    learning_rate: float
    loss: float
    accuracy: float
    dead_share: float


class Learner:
    """Trains one network.

    Args:
        recipe: How to train.
        execution: By which means.
        world: This process among all.
        material: The images.
        progress: Told after every batch; None says nothing.

    Attributes:
        model: The network.
        optimiser: Adam of the present step; None where the next pass begins with a new one.

    Raises:
        ModelError: The recipe names no network.
        TrainError: The batch cannot be shared, or the teacher does not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        execution: Execution,
        world: World,
        material: Material,
        progress: Progress | None,
    ) -> None:
        if recipe.batch % world.size:
            raise TrainError(
                f"got batches of {recipe.batch} for {world.size} processes: give a multiple"
            )
        self.recipe, self.world = recipe, world
        self.material, self.progress = material, progress
        options = networks.ModelOptions(
            recipe.model,
            recipe.variant,
            len(material.training.classes),
            recipe.select,
            recipe.reuse_statistics,
            recipe.statistic,
        )
        self.model = networks.build(options, init="training", seed=recipe.seed)
        self.model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in self.model.modules():
            if isinstance(module, networks.BinaryConv2d) and recipe.precision == "bf16":
                module.training_dtype = torch.bfloat16
        if execution.start is not None:
            take_parameters(self.model, execution.start)
        fused.fuse_batch_norms(self.model, world.size)
        if execution.compile:
            fused.compile_blocks(self.model)
        self._forward: nn.Module = self.model
        if world.size > 1:
            self._forward = DistributedDataParallel(self.model, broadcast_buffers=False)
        self._loss = Loss(recipe, execution.teacher, options.num_classes, world.device)
        self._coefficients = Coefficients(self.model, recipe.instance_rate)
        self.optimiser: torch.optim.Adam | None = None

    def learn(self, epoch: int) -> Passed:
        """Learn from every training image once.

        Args:
            epoch: Number from 0.

        Raises:
            TrainError: The loss became NaN or infinite.
        """
        recipe, step = self.recipe, self.recipe.step_of(epoch)
        networks.set_binary_weights(self.model, step == 1)
        if self.optimiser is None:
            self.optimiser = adam(self.model, recipe.weight_decay[step])
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        # A run that goes on from a checkpoint knows no divisors: no epoch may build on the last's.
        self._coefficients.forget()
        with fused.uncompiled():
            dead = survey(self.model, self._survey_batches(generator), self._coefficients)
        self.model.train()
        count = len(self.material.training)
        batches = count // recipe.batch
        order = torch.randperm(count, generator=generator)
        done_before = epoch - (recipe.epochs[0] if step else 0)
        loss_sum, right, first_rate = 0.0, 0, 0.0
        for index in range(batches):
            position = (done_before + index / batches) / recipe.epochs[step]
            rate = learning_rate(recipe.learning_rate[step], position, recipe.warmup)
            first_rate = rate if index == 0 else first_rate
            chosen = order[index * recipe.batch : (index + 1) * recipe.batch]
            if index and index % _MEASURE_EVERY == 0:
                self._measure(chosen)
            loss, own_right = self.update(chosen, rate, generator)
            if not math.isfinite(loss):
                raise TrainError(
                    f"the loss became {loss} in epoch {epoch + 1}: start again with a learning "
                    f"rate below {list(recipe.learning_rate)}{self._lower_rate()}; the checkpoint "
                    "of the epoch before is as it was"
                )
            loss_sum, right = loss_sum + loss, right + own_right
            if self.progress is not None:
                seen = (index + 1) * recipe.batch // self.world.size
                self.progress.batch(
                    epoch + (index + 1) / batches, loss_sum / (index + 1), right / seen
                )
        all_loss, all_right = self.world.total(loss_sum, right)
        return Passed(
            learning_rate=first_rate,
            loss=all_loss / (batches * self.world.size),
            accuracy=all_right / (batches * recipe.batch),
            dead_share=dead,
        )

    def update(
        self, chosen: torch.Tensor, rate: float, generator: torch.Generator
    ) -> tuple[float, int]:
        """Learn from one batch.

        Args:
            chosen: `[N]` int64, images of the batch of all processes.
            rate: Learning rate.
            generator: Source of the distortion.

        Returns:
            Loss and number of right answers of this process.
        """
        optimiser = self.optimiser
        assert optimiser is not None
        for group in optimiser.param_groups:
            group["lr"] = rate
        part = slice(self.world.rank, None, self.world.size)
        inputs, labels = self.material.distorted(chosen, part, generator)
        logits = self._forward(inputs)
        loss = self._loss(logits, labels, inputs)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._coefficients.before_step()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        optimiser.step()
        self._coefficients.after_step()
        return float(loss.detach()), int((logits.detach().argmax(dim=1) == labels).sum())

    def _lower_rate(self) -> str:
        """What else of the recipe may be too high."""
        if not self._coefficients.names():
            return ""
        return f" or an --instance-rate below {self.recipe.instance_rate:g}"

    def test_accuracy(self) -> float:
        """Classify all test images in evaluation mode, in float32 and without compilation.

        Returns:
            Share of right answers.
        """
        self.model.eval()
        right, count = 0, len(self.material.test)
        starts = range(self.world.rank * _TEST_BATCH, count, self.world.size * _TEST_BATCH)
        with torch.no_grad(), fused.uncompiled():
            for start in starts:
                inputs, labels = self.material.test_batch(slice(start, start + _TEST_BATCH))
                right += int((self.model(inputs).argmax(dim=1) == labels).sum())
        return self.world.total(right)[0] / count

    def _measure(self, chosen: torch.Tensor) -> None:
        """Measure the statistics once more, on the same images in all processes."""
        if self._coefficients.names():
            with fused.uncompiled():
                images = self.material.sample(chosen[:_SURVEY_BATCH])
                survey(self.model, [images], self._coefficients)

    def _survey_batches(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        count = len(self.material.training)
        chosen = torch.randperm(count, generator=generator)[: _SURVEY_BATCHES * _SURVEY_BATCH]
        for start in range(0, len(chosen), _SURVEY_BATCH):
            part = chosen[start : start + _SURVEY_BATCH]
            if len(part) > 1:  # one image has no batch statistics
                yield self.material.sample(part)
