"""The accuracy of a trained network on test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tvm_insta.errors import TrainError
from tvm_insta.nn import BinaryNetwork
from tvm_insta.train.data import distort
from tvm_insta.train.data.load import load

_BATCH = 250


def accuracy(
    network: BinaryNetwork, preprocessing: dict[str, Any], data: Path, *, cache: Path | None = None
) -> tuple[float, int]:
    """Classify the test images of a data set.

    Args:
        network: In evaluation mode.
        preprocessing: See `tvm_insta.nn.preprocessing`.
        data: See `tvm_insta.train.data.load.load`.
        cache: Folder of decoded images.

    Returns:
        Share of right answers, and the number of images.

    Raises:
        DataError: The data set is incomplete or damaged.
        TrainError: It has other classes than the network.
    """
    test = load(data, "test", int(preprocessing["resize"][0]), cache=cache)
    if list(test.classes) != preprocessing["classes"]:
        raise TrainError(
            f"{data} has the classes {', '.join(test.classes[:3])}, ..., but the network knows "
            f"{', '.join(preprocessing['classes'][:3])}, ...: give the data it was trained on"
        )
    mean, std = (torch.tensor(preprocessing[key]) for key in ("mean", "std"))
    right = 0
    with torch.no_grad():
        for start in range(0, len(test), _BATCH):
            part = slice(start, start + _BATCH)
            inputs = distort.normalise(test.pixels[part], mean, std)
            right += int((network(inputs).argmax(dim=1) == test.labels[part]).sum())
    return right / len(test), len(test)
