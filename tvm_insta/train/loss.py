"""The loss: labels, a teacher's distribution, or both."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from tvm_insta import nn as networks
from tvm_insta.errors import TrainError
from tvm_insta.train.options import Recipe


class Loss:
    """Mean loss of a batch.

    Args:
        recipe: Label smoothing and the teacher's share.
        teacher: Checkpoint of one of our networks, or None.
        classes: Number of logits.
        device: Of the training.

    Raises:
        TrainError: A teacher is missing, superfluous, or of other classes.
    """

    def __init__(
        self, recipe: Recipe, teacher: Path | None, classes: int, device: torch.device
    ) -> None:
        self.smoothing = recipe.label_smoothing
        self.share = recipe.teacher_weight
        self.teacher: nn.Module | None = None
        if (teacher is None) != (self.share == 0):
            raise TrainError(
                f"got teacher_weight {self.share} and {'no' if teacher is None else 'a'} teacher: "
                "give --teacher FILE with a teacher_weight above 0, or neither"
            )
        if teacher is not None:
            self.teacher = _load(teacher, classes).to(device)

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, inputs: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            logits: `[N, K]`.
            labels: `[N]` int64.
            inputs: `[N, 3, H, W]`, for the teacher.

        Returns:
            A scalar.
        """
        if self.teacher is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        with torch.no_grad():
            distribution = self.teacher(inputs).softmax(dim=1)
        # Up to a constant, the divergence of the student's distribution from the teacher's.
        loss = self.share * F.cross_entropy(logits, distribution)
        if self.share < 1:
            known = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
            loss = loss + (1 - self.share) * known
        return loss


def _load(path: Path, classes: int) -> nn.Module:
    options = networks.read_checkpoint(path).options()
    if options is None:
        raise TrainError(f"{path} does not say which network it is: give a model.safetensors file")
    if options.num_classes != classes:
        raise TrainError(
            f"the teacher {path} knows {options.num_classes} classes, but the data has {classes}"
        )
    return networks.create(options.model, options.variant, checkpoint=path)
