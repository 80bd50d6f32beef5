"""Making networks: untrained, from a checkpoint file, or from the zoo."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tvm_insta.errors import ModelError
from tvm_insta.nn.blocks import BinaryNetwork
from tvm_insta.nn.checkpoint import PREPROCESSING_KEY, Checkpoint, copy_into, read_checkpoint
from tvm_insta.nn.initialise import initialise
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


def create(
    model: str,
    variant: str = "insta",
    *,
    checkpoint: str | os.PathLike[str] | None = None,
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
    asked: dict[str, Any] = {
        "model": model,
        "variant": variant,
        "num_classes": num_classes,
        "select": None if select is None else tuple(select),
        "reuse_statistics": reuse_statistics,
        "statistic": statistic,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    defaults: dict[str, Any] = {"num_classes": default_num_classes(model)}
    options = ModelOptions(**(defaults | given))
    if checkpoint is None:
        return build(options, init="seeded", seed=seed).eval()
    found = _read(checkpoint)
    saved = found.options()
    if saved is not None:
        _check_agreement(found, saved, given)
        options = saved
    network = build(options, seed=seed)
    copy_into(network, found)
    return network.eval()


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
    text = checkpoint.metadata.get(PREPROCESSING_KEY)
    if text is None:
        raise ModelError(
            f"checkpoint {checkpoint.path} tells of no preprocessing; save it with "
            "save_checkpoint(..., preprocessing=...)"
        )
    return parse_preprocessing(text, str(checkpoint.path))


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
