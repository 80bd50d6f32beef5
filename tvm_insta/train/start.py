"""Training on from a network that is trained already, of the same variant or of a plainer one.

A threshold of INSTA-Th whose coefficient is 0 is that of RSign, and likewise for INSTA-PReLU. So a
trained baseline is a place from which an instance-aware network can start.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import torch

from tvm_insta import nn as networks
from tvm_insta.errors import TrainError
from tvm_insta.train.options import Execution, Recipe


def with_start(recipe: Recipe, execution: Execution) -> Recipe:
    """Let a recipe name the network that its run starts from.

    Args:
        recipe: With or without a digest.
        execution: With or without the file.

    Returns:
        The recipe, with the file's digest if there is a file.

    Raises:
        TrainError: The file is missing, another one than the recipe names, or was not given.
    """
    path, named = execution.start, recipe.start_sha256
    if path is None:
        if named is not None:
            raise TrainError(
                f"the recipe starts from the network with SHA-256 {named}: give it with --start"
            )
        return recipe
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainError(
            f"the network {path} to start from cannot be read ({error}): name an existing file"
        ) from error
    if named not in (None, found):
        raise TrainError(
            f"{path} has the SHA-256 {found}, but the recipe starts from {named}: give that file, "
            "or take start_sha256 out of the recipe"
        )
    return dataclasses.replace(recipe, start_sha256=found)


def take_parameters(model: networks.BinaryNetwork, path: Path) -> None:
    """Copy the parameters and statistics of a trained network; what it lacks stays as it is.

    Args:
        model: Just built; changed in place.
        path: Checkpoint of one of our networks. Where its binary weights are packed, the real
            weights behind them start at their scale times their sign.

    Raises:
        ModelError: The file is damaged.
        TrainError: It holds another architecture, other classes, or has modules that `model` lacks.
    """
    options = networks.read_checkpoint(path).options()
    mine = model.options
    if options is None:
        raise TrainError(f"{path} does not say which network it is: give a model.safetensors file")
    if (options.model, options.num_classes) != (mine.model, mine.num_classes):
        raise TrainError(
            f"{path} holds a {options.model} of {options.num_classes} classes, but a {mine.model} "
            f"of {mine.num_classes} is trained: give a network of the same"
        )
    given = networks.create(options.model, options.variant, checkpoint=path).state_dict()
    own = model.state_dict()
    superfluous = sorted(given.keys() - own.keys())
    aware = (options.statistic, options.reuse_statistics)
    if superfluous or (
        options.variant != "baseline" and aware != (mine.statistic, mine.reuse_statistics)
    ):
        raise TrainError(
            f"{path} is a {options.variant} network with the statistic {options.statistic}, which "
            f"a {mine.variant} with {mine.statistic} cannot start from: give a baseline, or train "
            "the same variant, statistic and selection"
        )
    with torch.no_grad():
        for name, value in given.items():
            own[name].copy_(value)
