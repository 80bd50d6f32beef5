"""Making networks: untrained, from a checkpoint file, or from the zoo."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tvm_insta.errors import ModelError
from tvm_insta.nn.blocks import BinaryNetwork
from tvm_insta.nn.checkpoint import PREPROCESSING_KEY, Checkpoint, read_checkpoint
from tvm_insta.nn.initialise import initialise
from tvm_insta.nn.load import copy_into
from tvm_insta.nn.messages import unknown
from tvm_insta.nn.mobilenet import mobilenet_v1
from tvm_insta.nn.options import MODELS, ModelOptions, check_model, default_num_classes
from tvm_insta.nn.packaged import zoo_checkpoints
from tvm_insta.nn.preprocess import model_preprocessing, parse_preprocessing
from tvm_insta.nn.resnet import resnet18, resnet20

_BUILDERS = {"resnet18": resnet18, "mobilenet_v1": mobilenet_v1, "resnet20": resnet20}


def build(options: ModelOptions, *, init: str = "training", seed: int = 0) -> BinaryNetwork:
    """Build an untrained network, in training mode.

    Args:
        options: Which network.
        init: "training" or "seeded", see `initialise`.
        seed: Seed of the parameters; the global random state is not touched.

    Returns:
        The network.

    Raises:
        ModelError: The init is unknown, or `options.select` names no layer of the network.
    """
    # PyTorch's own layers draw from the global generator when they are made.
    with torch.random.fork_rng(devices=[]):
        model: BinaryNetwork = _BUILDERS[options.model](options)
    initialise(model, init, seed)
    return model


@dataclass(frozen=True)
class Created:
    """A network that is ready to run.

    Attributes:
        network: In evaluation mode.
        preprocessing: As `preprocessing` gives it: of the checkpoint, which may tell of none, or
            the customary one of a network without trained weights.
        note: What was taken, stripped, cast or ignored of the checkpoint, in one line; or empty.
    """

    network: BinaryNetwork
    preprocessing: dict[str, Any] | None
    note: str = ""


def create(
    model: str,
    variant: str = "insta",
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_key: str | None = None,
    allow_nan: bool = False,
    seed: int = 0,
    num_classes: int | None = None,
    select: Iterable[str] | None = None,
    reuse_statistics: bool | None = None,
    statistic: str | None = None,
) -> BinaryNetwork:
    """Make a network that is ready to run, in evaluation mode.

    An option that is None is taken from the checkpoint's metadata, else from the defaults of
    `ModelOptions`.

    Args:
        model: One of `MODELS`.
        variant: One of `VARIANTS`.
        checkpoint: A name from `zoo_checkpoints()`, or the path of a checkpoint file. None gives
            the "seeded" parameters of `initialise`: fit to measure, not to recognise.
        checkpoint_key: Which state dict of the file, such as "state_dict_ema"; None takes the usual
            one.
        allow_nan: Take parameters of the checkpoint that are NaN or infinite.
        seed: Seed of those; not used with a checkpoint.
        num_classes: Number of logits.
        select: Which layers are instance-aware, see `ModelOptions`.
        reuse_statistics: See `ModelOptions`.
        statistic: One of `STATISTICS`.

    Returns:
        The network.

    Raises:
        ModelError: A name is unknown, a value not allowed, or the checkpoint does not fit.
    """
    if isinstance(select, str):
        select = (select,)
    options = {
        "num_classes": num_classes,
        "select": None if select is None else tuple(select),
        "reuse_statistics": reuse_statistics,
        "statistic": statistic,
    }
    return create_with_note(
        {"model": model, "variant": variant, **options},
        checkpoint=checkpoint,
        checkpoint_key=checkpoint_key,
        allow_nan=allow_nan,
        seed=seed,
    ).network


def create_with_note(
    asked: Mapping[str, Any],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_key: str | None = None,
    allow_nan: bool = False,
    seed: int = 0,
) -> Created:
    """Do as `create` does, and tell what it did.

    Args:
        asked: Attributes of `ModelOptions`, "model" among them; None stands for "not asked".
        checkpoint: As for `create`.
        checkpoint_key: As for `create`.
        allow_nan: As for `create`.
        seed: As for `create`.

    Raises:
        ModelError: As `create`.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    defaults: dict[str, Any] = {
        "num_classes": default_num_classes(given["model"]),
        "variant": "insta",
    }
    options = ModelOptions(**(defaults | given))
    if checkpoint is None:
        network = build(options, init="seeded", seed=seed).eval()
        return Created(network, model_preprocessing(options.model))
    found = _read(checkpoint)
    saved = found.options()
    if saved is not None:
        _check_agreement(found, saved, given)
        options = saved
    return _filled(found, options, checkpoint_key, allow_nan)


def create_from_zoo(name: str) -> Created:
    """Make one of the trained networks that come with the package.

    Args:
        name: One of `zoo_checkpoints()`.

    Raises:
        ModelError: There is no network of that name.
    """
    known = zoo_checkpoints()
    if name not in known:
        raise unknown("network of the zoo", name, known)
    found = read_checkpoint(known[name])
    options = found.options()
    if options is None:
        raise ModelError(f"checkpoint {found.path} does not say which network it belongs to")
    return _filled(found, options)


def _filled(
    found: Checkpoint, options: ModelOptions, key: str | None = None, allow_nan: bool = False
) -> Created:
    """A network with the parameters of a checkpoint."""
    network = build(options)
    note = copy_into(network, found, key=key, allow_nan=allow_nan)
    return Created(network.eval(), _preprocessing_of(found), note)


def preprocessing(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe how an image becomes an input.

    Args:
        name: A name from `zoo_checkpoints()`, the path of a checkpoint file, or one of `MODELS`
            (its customary preprocessing, for networks without trained weights).

    Returns:
        The description, which JSON can hold: {"resize": [H, W], "interpolation": "bilinear",
        "mode": "RGB", "scale": 1 / 255, "mean": [3 numbers], "std": [3 numbers],
        "layout": "NCHW", "classes": [names]}.

    Raises:
        ModelError: The name is unknown, or the checkpoint tells of no preprocessing.
    """
    if name in MODELS:
        return model_preprocessing(check_model(str(name)))
    checkpoint = _read(name, also=MODELS)
    found = _preprocessing_of(checkpoint)
    if found is None:
        raise ModelError(
            f"checkpoint {checkpoint.path} tells of no preprocessing; save it with "
            "save_checkpoint(..., preprocessing=...)"
        )
    return found


def _preprocessing_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    text = checkpoint.metadata.get(PREPROCESSING_KEY)
    return None if text is None else parse_preprocessing(text, str(checkpoint.path))


def _read(checkpoint: str | os.PathLike[str], also: Iterable[str] = ()) -> Checkpoint:
    known = zoo_checkpoints()
    if checkpoint in known:
        return read_checkpoint(known[str(checkpoint)])
    if not Path(checkpoint).exists():
        names = [*known, *also, "the path of a checkpoint file"]
        raise unknown("checkpoint", os.fspath(checkpoint), names)
    return read_checkpoint(checkpoint)


def _check_agreement(found: Checkpoint, saved: ModelOptions, given: dict[str, Any]) -> None:
    differences = [
        f"{name} {getattr(saved, name)!r}, not {value!r}"
        for name, value in given.items()
        if getattr(saved, name) != value
    ]
    if differences:
        raise ModelError(
            f"checkpoint {found.path} was saved with {', '.join(differences)}; "
            "ask for what it was saved with"
        )
