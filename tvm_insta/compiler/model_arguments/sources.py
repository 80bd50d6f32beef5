"""What names a network so that it can be built again: the manifest's ``source``, typed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm_insta.errors import ArtefactError, ModelError
from tvm_insta.runtime.schema import SchemaError, from_json

ZOO = "zoo:"
"""``--model zoo:NAME`` is one of the trained networks that come with the package."""


@dataclass(frozen=True)
class OwnModel:
    """One of our networks.

    `model` is one of `nn.MODELS`, or `ZOO` and a name; `checkpoint` a name or a path. The others
    are arguments of `nn.create`; None stands for what the checkpoint says, else for the default.
    `checkpoint_sha256` and `parameters_sha256` are those of the network that was compiled.
    """

    model: str
    variant: str | None = None
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    checkpoint_sha256: str | None = None
    allow_nan: bool = False
    seed: int = 0
    num_classes: int | None = None
    select: tuple[str, ...] | None = None
    reuse_statistics: bool | None = None
    statistic: str | None = None
    parameters_sha256: str | None = None

    def __post_init__(self) -> None:
        _check_range("seed", self.seed)
        _check_range("number of classes", self.num_classes or 0)


@dataclass(frozen=True)
class FactoryModel:
    """A user's own network: ``FILE.py:NAME`` or ``package.module:NAME``, called with arguments.

    `input_shape` is that of one input, without the batch. The other fields are those of `OwnModel`.
    """

    factory: str
    input_shape: tuple[int, ...]
    factory_args: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    checkpoint_key: str | None = None
    checkpoint_sha256: str | None = None
    allow_nan: bool = False
    parameters_sha256: str | None = None

    def __post_init__(self) -> None:
        for size in self.input_shape:
            _check_range("size in the input shape", size)


def _check_range(what: str, value: int) -> None:
    """Refuse numbers that PyTorch cannot count to; raises `ModelError`."""
    if abs(value) >= 2**31:
        raise ModelError(f"got the {what} {value}, but it must be below 2**31 = {2**31}")


def parse_source(description: Mapping[str, Any]) -> OwnModel | FactoryModel:
    """Read the ``source`` of a manifest.

    Raises:
        ModelError: it names no network that can be built again.
        ArtefactError: a field is missing, unknown or of the wrong type.
    """
    if not {"factory", "model"} & set(description):
        raise ModelError(
            "the artefact does not say how to build its PyTorch network again: give the network, "
            "with --factory FILE.py:FUNCTION, or from Python: "
            "tvm_insta.validate.validate(artefact, module, inputs)"
        )
    try:
        source: OwnModel | FactoryModel = (
            from_json(FactoryModel, dict(description))
            if "factory" in description
            else from_json(OwnModel, dict(description))
        )
    except SchemaError as error:
        raise ArtefactError(
            f"the manifest's source cannot be used: {error}; the artefact is damaged: compile it "
            "again"
        ) from error
    if isinstance(source, FactoryModel) and min(source.input_shape, default=0) < 1:
        raise ArtefactError(
            f"the manifest's source has the input shape {list(source.input_shape)}, but it needs "
            "sizes of at least 1; the artefact is damaged: compile it again"
        )
    return source


def as_description(source: OwnModel | FactoryModel) -> dict[str, Any]:
    """What the manifest keeps: `parse_source` reads it; what is as by default is left out."""
    defaults = {item.name: item.default for item in dataclasses.fields(source)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(source).items()
        if value != defaults[name] and value != {}
    }
