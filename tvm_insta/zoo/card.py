"""Model cards: a JSON file beside each checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_insta.errors import ModelError


@dataclass(frozen=True)
class Card:
    """What is to be known of a trained network.

    Attributes:
        name: In the zoo.
        model: One of `tvm_insta.nn.MODELS`.
        variant: One of `tvm_insta.nn.VARIANTS`.
        data: The data set, in words.
        licence: Of the data, in words.
        test_images: Number of images the accuracy was measured on.
        accuracy: Share of them that this file classifies rightly, measured with PyTorch.
        seed: It was trained with.
        accuracy_of_seeds: Test accuracies of all runs of this recipe, by seed, this one included.
        epochs: Of the two steps, real and binary weights.
        recipe: Everything that was set, see `tvm_insta.train.Recipe`.
        command: That trains it again.
        bytes: Size of the checkpoint.
        sha256: Of the checkpoint.
    """

    name: str
    model: str
    variant: str
    data: str
    licence: str
    test_images: int
    accuracy: float
    seed: int
    accuracy_of_seeds: dict[str, float]
    epochs: tuple[int, int]
    recipe: dict[str, Any]
    command: str
    bytes: int
    sha256: str

    def to_json(self) -> str:
        """Write the card."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def digest(path: Path) -> str:
    """Give the SHA-256 of a file.

    Args:
        path: The file.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_card(checkpoint: Path) -> dict[str, Any]:
    """Read the card beside a checkpoint.

    Args:
        checkpoint: Path of the checkpoint.

    Returns:
        The card; empty if there is none.

    Raises:
        ModelError: It is damaged.
    """
    path = checkpoint.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"the model card {path} is no JSON ({error}): mend it") from error
    if not isinstance(found, dict):
        raise ModelError(f"the model card {path} is no JSON object: mend it")
    return found
