"""The images of a run, and how they become inputs."""

from __future__ import annotations

from typing import Any

import torch

from tvm_insta import nn as networks
from tvm_insta.errors import TrainError
from tvm_insta.train.data import distort
from tvm_insta.train.data.images import Images
from tvm_insta.train.data.load import Tell, load
from tvm_insta.train.options import Execution, Recipe


class Material:
    """Training and test images of one run.

    Args:
        recipe: Which size, and which distortion.
        training: Images to learn from.
        test: Images to classify.
        device: Of the inputs.

    Attributes:
        training: As given.
        test: As given.
        size: Height and width of an input.
        description: The preprocessing, see `tvm_insta.nn.preprocessing`.

    Raises:
        TrainError: The two splits do not belong together, or there are too few images.
    """

    def __init__(
        self, recipe: Recipe, training: Images, test: Images, device: torch.device
    ) -> None:
        self.recipe, self.device = recipe, device
        self.size = networks.input_shape(recipe.model)[-1]
        self.training, self.test = training, test
        if self.training.classes != self.test.classes:
            odd = sorted(set(self.training.classes) ^ set(self.test.classes))
            raise TrainError(
                f"the class {', '.join(odd[:1]) or 'order'} of training and test images differs: "
                "both splits must have the same classes"
            )
        if len(self.training) < recipe.batch:
            raise TrainError(
                f"got batches of {recipe.batch}, but there are {len(self.training)} training "
                "images: give a smaller batch"
            )
        mean, std = self.training.statistics()
        self._mean = torch.tensor(mean, device=device)
        self._std = torch.tensor(std, device=device)
        self.description: dict[str, Any] = networks.preprocessing(recipe.model) | {
            "mean": mean,
            "std": std,
            "classes": list(self.training.classes),
        }

    def distorted(
        self, chosen: torch.Tensor, part: slice, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make a training batch.

        What is random is drawn for the whole batch, so that several processes with a part each see
        what one process would.

        Args:
            chosen: `[N]` int64, images of the whole batch.
            part: Those of this process.
            generator: Source of the randomness.

        Returns:
            Inputs `[N', 3, S, S]` and labels `[N']` on the device.
        """
        recipe, own = self.recipe, chosen[part]
        if recipe.crop == "resized":
            drawn = distort.windows(len(chosen), recipe.crop_area, recipe.flip, generator)
            pixels = self.training.pixels[own].to(self.device)
            pixels = distort.cut_windows(pixels, drawn[part].to(self.device), self.size)
        else:
            placed = distort.placement(len(chosen), recipe.padding, recipe.flip, generator)
            stored = distort.centre(self.training.pixels[own], self.size)
            pixels = distort.shift(stored, recipe.padding, placed[part])
        return self._inputs(pixels), self.training.labels[own].to(self.device)

    def sample(self, chosen: torch.Tensor) -> torch.Tensor:
        """Give training images without distortion.

        Args:
            chosen: `[N]` int64.

        Returns:
            `[N, 3, S, S]`.
        """
        return self._inputs(distort.centre(self.training.pixels[chosen], self.size))

    def test_batch(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Give test images.

        Args:
            part: Which.

        Returns:
            Inputs `[N, 3, S, S]` and labels `[N]` on the device.
        """
        pixels = distort.centre(self.test.pixels[part], self.size)
        return self._inputs(pixels), self.test.labels[part].to(self.device)

    def _inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        return distort.normalise(pixels.to(self.device), self._mean, self._std)


def find_material(
    recipe: Recipe, execution: Execution, device: torch.device, progress: Tell | None
) -> Material:
    """Read the images of a run.

    Args:
        recipe: Which size, and which distortion.
        execution: Where they are, and where decoded images are kept.
        device: Of the inputs.
        progress: Told while images are decoded.

    Raises:
        DataError: The data set is incomplete or damaged.
        TrainError: The two splits do not belong together, or there are too few images.
    """
    size = networks.input_shape(recipe.model)[-1]
    stored, cache = recipe.stored_size or size, execution.cache
    if stored < size:
        raise TrainError(
            f"got stored_size {stored}, but {recipe.model} sees {size} pixels: give at least that"
        )
    training = load(execution.data, "train", stored, cache=cache, progress=progress)
    test = load(execution.data, "test", stored, cache=cache, progress=progress)
    if execution.limit is not None:
        training = training.limited(execution.limit)
    return Material(recipe, training, test, device)
