"""The log of a run: a CSV file with one row for each epoch."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from tvm_insta.errors import TrainError
from tvm_insta.runtime.files import write_atomically
from tvm_insta.train.options import Recipe

NAME = "log.csv"


@dataclass(frozen=True)
class Row:
    """What is known of one epoch.

    Attributes:
        epoch: From 1.
        weights: "real" or "binary".
        learning_rate: At its beginning.
        loss: Mean over its training images.
        train_accuracy: Share of right answers on the distorted training images, while they were
            learned.
        test_accuracy: Share of right answers on all test images after it; None where they were not
            classified.
        dead_share: Share of channels whose bit never changed on a sample of training images, before
            it.
        seconds: It took, with the test images.
    """

    epoch: int
    weights: str
    learning_rate: float
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    dead_share: float
    seconds: float


COLUMNS = tuple(field.name for field in fields(Row))


def write(path: Path, rows: list[Row]) -> None:
    """Write a log.

    Args:
        path: In an existing folder.
        rows: All of them.

    Raises:
        TrainError: The disk is full, or the folder cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(
            "" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in astuple(row)
        )
    _write(path, text.getvalue())


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe where a person finds it.

    Args:
        path: In an existing folder.
        recipe: Of the run.

    Raises:
        TrainError: The disk is full, or the folder cannot be written.
    """
    _write(path, json.dumps(json.loads(recipe.to_json()), indent=1, sort_keys=True) + "\n")


def read_recipe(path: Path) -> Recipe:
    """Read what `write_recipe` wrote.

    Args:
        path: Of the file.

    Raises:
        TrainError: It is missing or no recipe.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainError(f"{path} is no recipe of a training run ({error})") from error
    return Recipe.from_mapping(values, str(path))


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise TrainError(f"{path} cannot be written ({error}): make room there") from error


def read(path: Path) -> list[Row]:
    """Read a log.

    Args:
        path: Of a file that `write` wrote.

    Raises:
        TrainError: It is missing or of another form.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
        return [
            Row(
                epoch=int(line["epoch"]),
                weights=line["weights"],
                learning_rate=float(line["learning_rate"]),
                loss=float(line["loss"]),
                train_accuracy=float(line["train_accuracy"]),
                test_accuracy=float(line["test_accuracy"]) if line["test_accuracy"] else None,
                dead_share=float(line["dead_share"]),
                seconds=float(line["seconds"]),
            )
            for line in lines
        ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainError(
            f"{path} is no log of a training run ({type(error).__name__}: {error}): its columns "
            f"are {', '.join(COLUMNS)}"
        ) from error


def write_tensorboard(folder: Path, row: Row) -> None:
    """Write the numbers of an epoch for TensorBoard.

    Args:
        folder: Where to.
        row: The epoch.

    Raises:
        TrainError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainError(
            'TensorBoard is not installed: pip install "tvm-insta[tensorboard]", or leave '
            "--tensorboard out"
        ) from error
    with SummaryWriter(str(folder), purge_step=row.epoch) as writer:
        for name in COLUMNS:
            value = getattr(row, name)
            if isinstance(value, float):
                writer.add_scalar(name, value, row.epoch)
