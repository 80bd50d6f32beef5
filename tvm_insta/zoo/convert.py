"""From the checkpoint of a training run to a file of the zoo and its card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvm_insta.errors import ModelError
from tvm_insta.nn import BinaryNetwork, create, preprocessing, read_checkpoint, save_checkpoint
from tvm_insta.zoo.card import Card, digest

_TRAINING_KEY = "tvm_insta.training"


def convert(
    trained: Path,
    folder: Path,
    name: str,
    *,
    data: str,
    licence: str,
    measure: Callable[[BinaryNetwork, dict[str, Any]], tuple[float, int]],
    other_seeds: Mapping[int, float] | None = None,
) -> Card:
    """Pack a trained network, measure the packed one, and write its card.

    Args:
        trained: The model.safetensors of a run of `tvm_insta.train`.
        folder: Where the two files are written.
        name: Of the network in the zoo.
        data: The data set, in words.
        licence: Of the data, in words.
        measure: Gives accuracy and number of test images for a network and its preprocessing.
        other_seeds: Test accuracies of runs that differ in their seed alone.

    Returns:
        The card.

    Raises:
        ModelError: The checkpoint is damaged or was not written by the trainer.
    """
    found = read_checkpoint(trained)
    options = found.options()
    try:
        record = json.loads(found.metadata[_TRAINING_KEY])
        recipe = dict(record["recipe"])
        seed, epochs = int(recipe["seed"]), tuple(recipe["epochs"])
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{trained} does not tell how it was trained ({error}): give the model.safetensors of "
            "a run of tvm_insta.train"
        ) from error
    if options is None:
        raise ModelError(f"{trained} does not say which network it is: take another copy of it")
    network = create(options.model, options.variant, checkpoint=trained)
    described = preprocessing(trained)
    path = folder / f"{name}.safetensors"
    save_checkpoint(
        network,
        path,
        preprocessing=described,
        metadata={_TRAINING_KEY: found.metadata[_TRAINING_KEY]},
        packed=True,
    )
    # What is measured is what is shipped.
    shipped = create(options.model, options.variant, checkpoint=path)
    accuracy, count = measure(shipped, described)
    seeds = {str(seed): accuracy} | {str(n): value for n, value in (other_seeds or {}).items()}
    card = Card(
        name=name,
        model=options.model,
        variant=options.variant,
        data=data,
        licence=licence,
        test_images=count,
        accuracy=accuracy,
        seed=seed,
        accuracy_of_seeds=dict(sorted(seeds.items())),
        epochs=(int(epochs[0]), int(epochs[1])),
        recipe=recipe,
        command=command_of(recipe),
        bytes=path.stat().st_size,
        sha256=digest(path),
    )
    path.with_suffix(".json").write_text(card.to_json(), encoding="utf-8")
    return card


def command_of(recipe: Mapping[str, Any]) -> str:
    """Write the command that trains a network.

    Args:
        recipe: Attributes of `tvm_insta.train.Recipe`.
    """
    words = ["python -m tvm_insta.train --data DIR --output DIR"]
    for key, value in recipe.items():
        option = key.replace("_", "-")
        if key == "start_sha256":
            words += ["--start FILE"] if value is not None else []
        elif isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            words.append(f"--{option} {' '.join(map(str, value))}")
        elif value is not None:
            words.append(f"--{option} {value}")
    return " ".join(words)
