"""What identifies a model: architecture, variant and the options of the instance-aware modules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from tvm_insta.errors import ModelError
from tvm_insta.nn.messages import unknown
from tvm_insta.nn.statistics import DEFAULT_STATISTIC, check_statistic

MODELS = ("resnet18", "mobilenet_v1", "resnet20")
VARIANTS = ("baseline", "insta", "insta_plus")

_INPUT_SHAPES = {
    "resnet18": (3, 224, 224),
    "mobilenet_v1": (3, 224, 224),
    "resnet20": (3, 32, 32),
}
_NUM_CLASSES = {"resnet18": 1000, "mobilenet_v1": 1000, "resnet20": 10}


def check_model(model: str) -> str:
    """Return `model`, or raise `ModelError` if there is no such architecture.

    Args:
        model: One of `MODELS`.
    """
    if model not in MODELS:
        raise unknown("model", model, MODELS)
    return model


def input_shape(model: str) -> tuple[int, int, int]:
    """Give the input shape a model is meant for, without the batch.

    Args:
        model: One of `MODELS`.

    Returns:
        (channels, height, width).

    Raises:
        ModelError: The model is unknown.
    """
    return _INPUT_SHAPES[check_model(model)]


def default_num_classes(model: str) -> int:
    """Give the number of classes a model has unless told otherwise.

    Args:
        model: One of `MODELS`.

    Raises:
        ModelError: The model is unknown.
    """
    return _NUM_CLASSES[check_model(model)]


@dataclass(frozen=True)
class ModelOptions:
    """Everything that decides which function a model computes, but for its parameters.

    Attributes:
        model: One of `MODELS`.
        variant: "baseline" (RSign, RPReLU), "insta" (INSTA-Th, INSTA-PReLU) or "insta_plus"
            (INSTA-Th+, INSTA-PReLU).
        num_classes: Number of logits.
        select: Which layers are instance-aware; the others fall back to RSign and RPReLU. None
            selects all. An entry names a layer ("stage1.0.threshold", "block3.prelu2"), or
            whatever contains it ("stage1", "stage1.0", "block3"); `*`, `?` and `[...]` work as in
            file names ("*.threshold*" selects every threshold and no PReLU). An empty tuple
            selects none.
        reuse_statistics: An INSTA-Th that directly follows an INSTA-PReLU takes the statistic
            which that measured on its own input. It saves a reduction, and is another function: a
            network must be trained that way.
        statistic: One of `STATISTICS`.

    Raises:
        ModelError: A value is not allowed.
    """

    model: str
    variant: str
    num_classes: int
    select: tuple[str, ...] | None = None
    reuse_statistics: bool = False
    statistic: str = DEFAULT_STATISTIC

    def __post_init__(self) -> None:
        check_model(self.model)
        if self.variant not in VARIANTS:
            raise unknown("variant", self.variant, VARIANTS)
        if isinstance(self.num_classes, bool) or not isinstance(self.num_classes, int):
            raise ModelError(f"num_classes is {self.num_classes!r}; it must be an integer")
        if self.num_classes < 1:
            raise ModelError(f"num_classes is {self.num_classes}; it must be at least 1")
        if self.select is not None and not (
            isinstance(self.select, tuple) and all(isinstance(s, str) for s in self.select)
        ):
            raise ModelError(
                f"select is {self.select!r}; it must be None or a tuple of layer names such as "
                "('stage2', 'stage3.0.threshold')"
            )
        if not isinstance(self.reuse_statistics, bool):
            raise ModelError(f"reuse_statistics is {self.reuse_statistics!r}; it must be a bool")
        check_statistic(self.statistic)

    def selects(self, layer: str) -> bool:
        """Tell whether a layer is to be instance-aware, as far as `select` decides.

        Args:
            layer: Dotted name of a threshold or PReLU layer.
        """
        return self.select is None or any(matches(entry, layer) for entry in self.select)

    def to_json(self) -> str:
        """Write the options as canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelOptions:
        """Read what `to_json` wrote.

        Args:
            text: A JSON object with exactly the attributes of this class.

        Raises:
            ModelError: The text is not such an object, or a value is not allowed.
        """
        try:
            values: Any = json.loads(text)
        except ValueError as error:
            raise ModelError(f"model options are not JSON: {error}") from error
        expected = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != expected:
            raise ModelError(
                f"model options must be a JSON object with the keys {sorted(expected)}, "
                f"got {text[:200]!r}"
            )
        if isinstance(values["select"], list):
            values["select"] = tuple(values["select"])
        return cls(**values)


def matches(entry: str, layer: str) -> bool:
    """Tell whether an entry of `select` names a layer or something that contains it.

    Args:
        entry: A name or a pattern, such as "stage1" or "*.prelu".
        layer: Dotted name of a layer.
    """
    return any(fnmatchcase(name, entry) for name in enclosing(layer))


def enclosing(layer: str) -> Iterator[str]:
    """Yield the names that contain a layer, the widest first, and the layer's own last.

    Args:
        layer: Dotted name, such as "stage1.0.threshold".
    """
    parts = layer.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
