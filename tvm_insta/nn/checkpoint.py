"""Checkpoints: tensors and a little text, read without ever executing what a file holds.

Two formats, told apart by their first bytes: safetensors, and what `torch.save` writes, of which
nothing but tensors, numbers and text is rebuilt.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn

from tvm_insta.errors import ModelError
from tvm_insta.files import replacing
from tvm_insta.nn.blocks import BinaryNetwork
from tvm_insta.nn.options import ModelOptions
from tvm_insta.nn.packed import PACKED_KEY, pack, unpack
from tvm_insta.nn.serialise import to_safetensors
from tvm_insta.nn.state_dicts import StateDict, find_state_dicts, pickled_modules
from tvm_insta.nn.torch_file import damaged, pickled_objects, read_torch_file

SUFFIXES = (".safetensors", ".pt", ".pth")
OPTIONS_KEY = "tvm_insta.options"
PREPROCESSING_KEY = "tvm_insta.preprocessing"
OWN_KEYS = ("state_dict", "metadata")  # of the files that `save_checkpoint` writes


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: Where it was read.
        states: Its state dicts, at least one, those under the usual keys first.
        metadata: Text by name; empty if the file has none.
        entries: What else the file has at its top, or all names of a plain state dict.
    """

    path: Path
    states: tuple[StateDict, ...]
    metadata: Mapping[str, str]
    entries: tuple[str, ...] = ()

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Parameters and buffers by the file's names: the largest of its state dicts."""
        return max(self.states, key=lambda state: len(state.tensors)).tensors

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


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint file.

    Args:
        path: A safetensors file or one of `torch.save`, whatever its name ends in: a state dict, or
            dicts with state dicts in them.

    Returns:
        Its tensors and metadata.

    Raises:
        ModelError: The file is missing, damaged, of another format, holds a pickled module or no
            tensors at all.
    """
    path = Path(path)
    _check_file(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        raise damaged(path, error) from error
    # A safetensors file begins with the length of its JSON header.
    if path.suffix == ".safetensors" or start[8:] == b"{":
        return _read_safetensors(path)
    return _from_torch(path, read_torch_file(path))


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"checkpoint {path} is not a file; give the path of an existing one")


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata: dict[str, str] = dict(file.metadata() or {})
    except Exception as error:
        # What a damaged file raises depends on where it is damaged.
        raise damaged(path, error) from error
    if PACKED_KEY in metadata:
        tensors = unpack(tensors, metadata.pop(PACKED_KEY), str(path))
    return Checkpoint(path, (StateDict("", tensors),), metadata)


def _from_torch(path: Path, loaded: object) -> Checkpoint:
    states = find_state_dicts(loaded)
    if not states:
        modules = pickled_modules(loaded)
        if modules:
            raise pickled_objects(path, modules)
        raise ModelError(
            f"checkpoint {path} holds {type(loaded).__name__}, not a state dict with tensors: "
            "save model.state_dict() and give that file"
        )
    entries = loaded if isinstance(loaded, dict) else {}
    found = entries.get("metadata")
    own = isinstance(found, dict) and all(
        isinstance(i, str) for pair in found.items() for i in pair
    )
    return Checkpoint(
        path,
        tuple(states),
        dict(found) if own and isinstance(found, dict) else {},
        tuple(str(name) for name in entries if not (own and name in OWN_KEYS)),
    )


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a checkpoint file, in hexadecimal digits.

    Raises:
        ModelError: It is no regular file, or cannot be read.
    """
    path = Path(path)
    _check_file(path)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise damaged(path, error) from error
    return digest.hexdigest()


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
    if path.suffix not in SUFFIXES:
        raise ModelError(
            f"checkpoint {path} has the suffix {path.suffix!r}; allowed are {', '.join(SUFFIXES)}"
        )
    text = dict(metadata or {})
    if isinstance(model, BinaryNetwork):
        text[OPTIONS_KEY] = model.options.to_json()
    if preprocessing is not None:
        text[PREPROCESSING_KEY] = json.dumps(dict(preprocessing))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    if packed:
        if not isinstance(model, BinaryNetwork) or path.suffix != ".safetensors":
            raise ModelError(
                f"{type(model).__name__} cannot be packed into {path}: give a network of "
                "tvm_insta.nn and a .safetensors file"
            )
        tensors, text[PACKED_KEY] = pack(model)
    try:
        with replacing(path) as file:
            if path.suffix == ".safetensors":
                # Not save_file: that makes a file only its owner may read, whatever the umask.
                file.write(to_safetensors(tensors, text))
            else:
                torch.save({"state_dict": tensors, "metadata": text}, file)
    except OSError as error:
        raise ModelError(
            f"checkpoint {path} cannot be written ({error}); name a file in a writable folder"
        ) from error
