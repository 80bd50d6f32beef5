"""Checkpoints: tensors and a little text, read without ever executing what a file holds.

Two formats: `.safetensors`, and PyTorch's `.pt`/`.pth` read with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from tvm_insta.errors import ModelError
from tvm_insta.nn.blocks import BinaryNetwork
from tvm_insta.nn.messages import first_few
from tvm_insta.nn.options import ModelOptions
from tvm_insta.nn.packed import PACKED_KEY, pack, unpack
from tvm_insta.nn.serialise import to_safetensors

SUFFIXES = (".safetensors", ".pt", ".pth")
OPTIONS_KEY = "tvm_insta.options"
PREPROCESSING_KEY = "tvm_insta.preprocessing"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: Where it was read.
        tensors: Parameters and buffers by name, on the CPU.
        metadata: Text by name; empty if the file has none.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]

    def options(self) -> ModelOptions | None:
        """Give the options of the network the file was saved from, or None if it does not tell.

        Raises:
            ModelError: The entry is there but damaged.
        """
        text = self.metadata.get(OPTIONS_KEY)
        if text is None:
            return None
        try:
            return ModelOptions.from_json(text)
        except ModelError as error:
            raise ModelError(f"checkpoint {self.path} carries damaged options: {error}") from error


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ModelError(
            f"checkpoint {path} has the suffix {path.suffix!r}; allowed are {', '.join(SUFFIXES)}"
        )


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint file.

    Args:
        path: A `.safetensors`, `.pt` or `.pth` file. A PyTorch file holds a state dict, or a dict
            with "state_dict" and optionally "metadata" (text by name).

    Returns:
        Its tensors and metadata.

    Raises:
        ModelError: The file is missing, damaged, of another format, or holds more than tensors.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise ModelError(f"checkpoint {path} is not a file; give the path of an existing one")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:
        # A damaged file makes the readers raise almost anything (struct, zip, pickle, key, index).
        first_line = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}"
        raise ModelError(
            f"checkpoint {path} cannot be read ({reason}); it is truncated, damaged, or holds "
            "objects other than tensors, which are not loaded: save the state dict of the model"
        ) from error
    return _from_torch(path, loaded)


def _read_safetensors(path: Path) -> Checkpoint:
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata: dict[str, str] = dict(file.metadata() or {})
    if PACKED_KEY in metadata:
        tensors = unpack(tensors, metadata.pop(PACKED_KEY), str(path))
    return Checkpoint(path, tensors, metadata)


def _from_torch(path: Path, loaded: object) -> Checkpoint:
    metadata: object = {}
    if isinstance(loaded, dict) and "state_dict" in loaded:
        metadata = loaded.get("metadata", {})
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not loaded:
        raise ModelError(
            f"checkpoint {path} holds {type(loaded).__name__}, not a state dict with tensors; "
            "save model.state_dict()"
        )
    alien = [str(key) for key, value in loaded.items() if not _is_entry(key, value)]
    if alien:
        raise ModelError(
            f"checkpoint {path} holds entries that are not tensors: {first_few(alien)}; "
            "save model.state_dict(), or a dict with 'state_dict' and 'metadata'"
        )
    if not isinstance(metadata, dict) or not all(
        isinstance(item, str) for pair in metadata.items() for item in pair
    ):
        raise ModelError(f"checkpoint {path} has metadata that is not text by name")
    return Checkpoint(path, dict(loaded), metadata)


def _is_entry(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, torch.Tensor)


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint and copy it into a model of the same architecture.

    Args:
        model: Changed in place, and only if everything fits.
        path: As for `read_checkpoint`.

    Returns:
        What was read.

    Raises:
        ModelError: The file cannot be read, or its tensors are not those of the model; the message
            names missing, unexpected and wrongly shaped ones.
    """
    checkpoint = read_checkpoint(path)
    copy_into(model, checkpoint)
    return checkpoint


def copy_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy tensors into a model of the same architecture.

    Args:
        model: Changed in place, and only if everything fits.
        checkpoint: What to copy.

    Raises:
        ModelError: The tensors are not those of the model.
    """
    wanted = model.state_dict()
    tensors = checkpoint.tensors
    problems = []
    missing = [name for name in wanted if name not in tensors]
    if missing:
        problems.append(f"{len(missing)} missing ({first_few(missing)})")
    unexpected = [name for name in tensors if name not in wanted]
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected ({first_few(unexpected)})")
    shared = [name for name in wanted if name in tensors]
    misfits = [
        f"{name}: {_describe(tensors[name])} for {_describe(wanted[name])}"
        for name in shared
        if tensors[name].shape != wanted[name].shape
        or tensors[name].is_floating_point() != wanted[name].is_floating_point()
    ]
    if misfits:
        problems.append(f"{len(misfits)} of the wrong shape or dtype ({first_few(misfits)})")
    if problems:
        raise ModelError(
            f"checkpoint {checkpoint.path} does not fit {_name(model)}: {'; '.join(problems)}; "
            "give the model and variant it was saved from"
        )
    model.load_state_dict(tensors)


def _describe(tensor: torch.Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{list(tensor.shape)} {dtype}"


def _name(model: nn.Module) -> str:
    if isinstance(model, BinaryNetwork):
        return f"{model.options.model} {model.options.variant}"
    return type(model).__name__


def save_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    preprocessing: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    packed: bool = False,
) -> None:
    """Write a model's parameters and buffers, and what they belong to.

    The file appears under its name only when it is complete.

    Args:
        model: What to save; a network of this package also gets its options into the metadata.
        path: A `.safetensors`, `.pt` or `.pth` file; its folder must exist.
        preprocessing: What turns an image into an input; see `tvm_insta.nn.preprocessing`.
        metadata: More text by name.
        packed: Whether binary weights are stored as bits, see `tvm_insta.nn.packed`; only for
            networks of this package, in a `.safetensors` file.

    Raises:
        ModelError: The suffix is unknown, the network cannot be packed, or the file cannot be
            written.
    """
    path = Path(path)
    _check_suffix(path)
    text = dict(metadata or {})
    if isinstance(model, BinaryNetwork):
        text[OPTIONS_KEY] = model.options.to_json()
    if preprocessing is not None:
        text[PREPROCESSING_KEY] = json.dumps(dict(preprocessing))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    if packed:
        if not isinstance(model, BinaryNetwork) or path.suffix != ".safetensors":
            raise ModelError(
                f"{_name(model)} cannot be packed into {path}: give a network of tvm_insta.nn and "
                "a .safetensors file"
            )
        tensors, text[PACKED_KEY] = pack(model)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".checkpoint-") as folder:
            partial = Path(folder) / path.name
            if path.suffix == ".safetensors":
                # Not save_file: that makes a file only its owner may read, whatever the umask.
                partial.write_bytes(to_safetensors(tensors, text))
            else:
                torch.save({"state_dict": tensors, "metadata": text}, partial)
            partial.replace(path)
    except OSError as error:
        raise ModelError(
            f"checkpoint {path} cannot be written ({error}); name a file in a writable folder"
        ) from error
