"""Copying a checkpoint into a network, and saying in one line what that took."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import torch
from torch import nn

from tvm_insta.errors import ModelError, one_line
from tvm_insta.nn.blocks import BinaryNetwork
from tvm_insta.nn.checkpoint import OWN_KEYS, Checkpoint, read_checkpoint
from tvm_insta.nn.fit import Match, choose_match, dtype_name, kind, match
from tvm_insta.nn.messages import counted, first_few


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    allow_nan: bool = False,
) -> Checkpoint:
    """Read a checkpoint and copy it into a model of the same architecture.

    Args:
        model: Changed in place, and only if everything fits.
        path: As for `read_checkpoint`.
        key: As for `copy_into`.
        allow_nan: As for `copy_into`.

    Returns:
        What was read.

    Raises:
        ModelError: The file cannot be read, or its tensors are not those of the model; the message
            names missing, unexpected and wrongly shaped ones.
    """
    checkpoint = read_checkpoint(path)
    copy_into(model, checkpoint, key=key, allow_nan=allow_nan)
    return checkpoint


def copy_into(
    model: nn.Module, checkpoint: Checkpoint, *, key: str | None = None, allow_nan: bool = False
) -> str:
    """Copy tensors into a model of the same architecture.

    A prefix that wrappers put before the names ("module.", "_orig_mod.", "model.") is stripped if,
    and only if, the names then are those of the model. Numbers are cast to the dtype of the model.
    Entries beside the state dict, counters of operations, and names outside of the prefix are
    ignored; a missing "num_batches_tracked" stays what it is.

    Args:
        model: Changed in place, and only if everything fits.
        checkpoint: What to copy.
        key: Which state dict of the file, such as "state_dict_ema", or which prefix in one, such as
            "student"; None takes the usual one.
        allow_nan: Take parameters that are NaN or infinite.

    Returns:
        What was taken, stripped, cast or ignored, in one line; empty if nothing was.

    Raises:
        ModelError: The tensors are not those of the model.
    """
    try:
        matches = match(model, checkpoint.states, key)
        if not matches[0].fits:
            raise ModelError(_misfits(model, matches[0]))
        found = choose_match(matches)
        done = _copy_match(model, found, allow_nan=allow_nan)
    except ModelError as error:
        raise ModelError(f"checkpoint {checkpoint.path} {error}") from error
    return "; ".join(_story(checkpoint, found, matches, done))


def _story(
    checkpoint: Checkpoint, found: Match, matches: list[Match], done: list[str]
) -> list[str]:
    """What was done to a checkpoint until it fitted."""
    parts = []
    if found.state.key and found.state.key != OWN_KEYS[0]:
        parts.append(f"took {found.state.key!r}")
    if found.prefix:
        parts.append(f"stripped {found.prefix!r}")
    if found.dropped:
        parts.append(f"stripped {first_few(map(repr, found.dropped))} inside of names")
    parts += done
    again = sorted({other.key for other in matches} - {found.key})
    used = {*found.names.values(), *found.counters, *found.outside}
    beside = [*found.state.others, *found.state.numbers]
    if found.state.key:
        top = {key.partition(".")[0] for key in (found.state.key, *again)}
        beside += [name for name in checkpoint.entries if name not in top]
    ignored = [*(name for name in beside if name not in used), *found.outside]
    if ignored:
        parts.append(f"ignored {first_few(ignored)}")
    if found.counters:
        parts.append(f"ignored {counted(len(found.counters), 'counter')} of operations or batches")
    if again:
        parts.append(f"{first_few(map(repr, again))} would fit, too (--checkpoint-key)")
    return parts


def _copy_match(model: nn.Module, found: Match, *, allow_nan: bool) -> list[str]:
    """Copy the tensors of a fitting match into its network.

    Returns:
        What was done to them, as parts of a sentence.

    Raises:
        ModelError: A value is NaN or infinite (unless that is allowed), does not fit its integer
            dtype, or the network refuses its tensors.
    """
    values: dict[str, torch.Tensor] = {}
    casts: Counter[tuple[str, str]] = Counter()
    sparse = 0
    for name, own in found.names.items():
        wanted = found.wanted[name]
        tensor = found.state.tensors.get(own)
        if tensor is None:
            tensor = torch.tensor(found.state.numbers[own], dtype=torch.float64)
        elif tensor.dtype != wanted.dtype:
            casts[dtype_name(tensor), dtype_name(wanted)] += 1
        if tensor.layout is not torch.strided:
            sparse, tensor = sparse + 1, tensor.to_dense()
        value = tensor.to(wanted.dtype).reshape(wanted.shape)
        if kind(wanted) == "integer" and not torch.equal(
            value.to(tensor.dtype), tensor.reshape(wanted.shape)
        ):
            raise ModelError(f"has values in {name} that {dtype_name(wanted)} cannot hold")
        values[name] = value
    if not allow_nan:
        refuse_non_finite(values)
    try:
        model.load_state_dict(values, strict=False)
    except RuntimeError as error:
        raise ModelError(f"is refused by {type(model).__name__}: {one_line(error)}") from error
    done = [
        f"cast {counted(count, 'tensor')} from {old} to {new}"
        for (old, new), count in sorted(casts.items())
    ]
    if sparse:
        done.append(f"made {counted(sparse, 'sparse tensor')} dense")
    return done


def refuse_non_finite(values: Mapping[str, torch.Tensor]) -> None:
    """Raise `ModelError` for values that are NaN or infinite, naming the first few."""
    bad = [
        name
        for name, value in values.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if bad:
        raise ModelError(
            f"has NaN or infinite values in {counted(len(bad), 'tensor')} ({first_few(bad)}), as "
            "after a training that diverged: allow_nan (--allow-nan) takes them all the same"
        )


def _misfits(model: nn.Module, found: Match) -> str:
    """Say why a match does not fit, naming the first few of each kind."""
    parts = []
    for names, what in (
        (found.missing, "missing"),
        (found.unexpected, "unexpected"),
        (found.misfits, "of the wrong shape or dtype"),
    ):
        if names:
            parts.append(f"{len(names)} {what} ({first_few(names)})")
    where = f" with its {found.key!r}" if found.key else ""
    return (
        f"does not fit {_model_name(model)}{where}: {'; '.join(parts)}; give the network it was "
        "saved from, with the same variant and number of classes"
    )


def _model_name(model: nn.Module) -> str:
    """What a message calls a network."""
    if isinstance(model, BinaryNetwork):
        return f"{model.options.model} {model.options.variant}"
    return type(model).__name__
