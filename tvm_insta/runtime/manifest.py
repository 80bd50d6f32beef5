"""The manifest `model.json`: what an artefact is, what it needs, and the hashes of its files.

Reading checks everything before any native code is loaded. The hashes guard against damage and
mix-ups; they are no signature, and a `.so` is native code: load only artefacts you trust.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvm_insta.errors import ArtefactError, InputError
from tvm_insta.runtime.schema import SchemaError, from_json

SCHEMA = "tvm_insta.artefact/1"
FILE_NAME = "model.json"
FORMS = ("vm", "c")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one file of the artefact."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorInfo:
    """A tensor; a symbolic dimension is `"batch"` or a product such as `"batch * 64"`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Layer:
    """One convolution or dense layer of the network as the compiler saw it.

    `op` names the operator, `kind` is `binary` or `float`, `shape` the output's, `weight` the
    weights' before packing, `bits` those of an activation (1 for a binary layer, None for a float
    one), `macs` the multiply-accumulates for one image. `reason` says why a layer stayed float;
    `kernel` is the symbol that computes it and `schedule` what shaped that kernel, where known.
    """

    name: str
    op: str
    kind: str
    shape: tuple[int | str, ...]
    macs: int
    weight: tuple[int, ...] = ()
    bits: int | None = None
    reason: str | None = None
    notes: tuple[str, ...] = ()
    kernel: str | None = None
    schedule: str | None = None
    reasons: tuple[str, ...] = ()
    """Codes of the reasons, see `tvm_insta.frontend.Reason`."""
    line: str = ""
    """File name and line of the user's code."""
    weight_bits: int = 0
    """Bits of a weight of a binary layer; ternary weights have 2."""
    planes: int = 0
    """Kernels of +-1 weights that compute a binary layer."""


@dataclass(frozen=True)
class Kernel:
    """One kernel call, in order of execution."""

    index: int
    symbol: str
    args: tuple[str, ...]
    """`input:i`, `constant:i`, or `value:i`: the i-th kernel output counted over all calls."""
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class Site:
    """Which level tensor of the PyTorch network a compare-and-pack kernel packs.

    Names are those of nodes in the graph that `tvm_insta.frontend.export_graph` gives.
    """

    compared: str | None
    """The tensor that the kernel compares; None where it is not in that graph."""
    roots: tuple[str, ...]
    """The tensors from which the levels are computed."""
    result: str
    """The level tensor: `base + step * code`."""
    base: float
    step: float
    axes: tuple[int, ...]
    """Codes in the kernel's layout are transposed by these axes and then have the shape of
    `result`."""


@dataclass(frozen=True)
class Binarisation:
    """One compare-and-pack kernel call: how its words are read, see `tvm_insta.ops.packing`."""

    kernel: int
    """Index of the call in `Manifest.kernels`."""
    channels: int
    bits: int
    """Bits of an activation."""
    compare: str
    """`ge`, `gt`, `le` or `lt`: x compared with the threshold sets a bit."""
    groups: int
    pad: tuple[int, ...]
    """Zero words around the image: top, left, bottom, right."""
    thresholds: str | None = None
    """Constant thresholds, little-endian float32 as hexadecimal digits; None where they depend on
    the instance. A trace of the plain-C form holds no constants."""
    threshold_shape: tuple[int, ...] = ()
    """Shape of the constant thresholds, `[L, *B]` with B broadcast to the compared tensor."""
    output: int = 0
    """Which of the call's outputs holds the words."""
    source: str = "argument:0"
    """The compared tensor: `argument:i` or `output:i` of the call."""
    threshold: str = "argument:1"
    """The thresholds, likewise; constant ones are in `thresholds`."""
    site: Site | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes that the plain-C form needs beside its code.

    `weights` and `arena` are there once; `thread` is what each thread after the first adds. Most of
    the arena is in use while `kernel` runs: `alive` bytes, of which `scratch` belong to that kernel
    alone and the rest are activations.
    """

    weights: int
    arena: int
    kernel: str
    alive: int
    scratch: int
    thread: int


@dataclass(frozen=True)
class Manifest:
    """Everything the loader, the validator and a curious reader need to know of an artefact.

    `name` prefixes the C functions of the plain-C form. `needs` holds LLVM feature names.
    `versions` holds at least `tvm`, `tvm_ffi` and `tvm_insta`. `working_set` is the number of bytes
    of constants and activations one image touches, and `memory` what they are made of, or None
    where it is not known. Several `outputs` lie behind each other in one buffer, image by image.
    """

    name: str
    form: str
    library: str
    files: dict[str, FileEntry]
    target_text: str
    target: str
    machine: str
    needs: tuple[str, ...]
    versions: dict[str, str]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch: int
    kernels: tuple[Kernel, ...]
    layers: tuple[Layer, ...] = ()
    binarisations: tuple[Binarisation, ...] = ()
    preprocessing: dict[str, Any] | None = None
    classes: tuple[str, ...] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    working_set: int | None = None
    memory: Memory | None = None
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ArtefactError(f"the manifest's form is {self.form!r}; allowed are vm and c")
        if self.library not in self.files:
            raise ArtefactError(
                f"the manifest lists no file {self.library}, its own library; compile the model "
                "again"
            )
        for name in self.files:
            if Path(name).name != name or name in ("", ".", ".."):
                raise ArtefactError(
                    f"the manifest lists the file {name!r}; only plain file names are allowed"
                )
        if self.max_batch < 1:
            raise ArtefactError(
                f"the manifest's max_batch is {self.max_batch}; it must be at least 1"
            )
        if not self.inputs or not self.outputs:
            raise ArtefactError(
                f"the manifest has {len(self.inputs)} inputs and {len(self.outputs)} outputs; an "
                "artefact has at least one of each"
            )
        types = sorted({output.dtype for output in self.outputs})
        open_ = any(isinstance(size, str) for out in self.outputs for size in out.shape[1:])
        if len(self.outputs) > 1 and (len(types) > 1 or open_):
            raise ArtefactError(
                f"the manifest's {len(self.outputs)} outputs have the types {', '.join(types)}; "
                "they need one type and fixed shapes behind the batch: compile the model again"
            )


def check_takes_images(manifest: Manifest, what: str) -> None:
    """Do nothing if an artefact takes images and nothing else.

    Args:
        manifest: of the artefact.
        what: the beginning of the sentence, e.g. "run classifies images".

    Raises:
        InputError: it has several inputs.
    """
    if len(manifest.inputs) > 1:
        names = ", ".join(each.name for each in manifest.inputs)
        raise InputError(
            f"{what}, but the artefact has {len(manifest.inputs)} inputs ({names}): call it from "
            "Python, module(a, b)"
        )


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """Size and hash of the files `names` in `folder`."""
    entries = {}
    for name in names:
        data = _read_bytes(folder / name)
        entries[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    return entries


def write(folder: Path, manifest: Manifest) -> Path:
    """Write `model.json` into `folder`: completely, or not at all.

    Raises:
        ArtefactError: if it cannot be written, or holds something JSON has no form for.
    """
    path = folder / FILE_NAME
    try:
        text = json.dumps(dataclasses.asdict(manifest), indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ArtefactError(
            f"the manifest holds a value that JSON cannot express ({error}); use strings, numbers, "
            "lists and dictionaries"
        ) from error
    handle, temporary = -1, ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".model-", suffix=".json", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's files are private; an artefact is not
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ArtefactError(
            f"cannot write {path} ({error.strerror}); free space or name another output folder"
        ) from error
    return path


def read(path: Path) -> Manifest:
    """Read and check a manifest; `path` is the JSON file.

    Raises:
        ArtefactError: if it is missing, damaged, of another schema, or lacks a key.
    """
    try:
        data = json.loads(_read_bytes(path).decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ArtefactError(
            f"{path} is no valid JSON ({error}); the artefact is damaged: copy or compile it again"
        ) from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise ArtefactError(
            f"{path} has schema {schema!r}, this tvm_insta reads {SCHEMA!r}; compile the model "
            "again with this version"
        )
    try:
        return from_json(Manifest, data)
    except SchemaError as error:
        raise ArtefactError(
            f"{path}: {error}; the artefact is damaged: compile it again"
        ) from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare size and hash of every listed file.

    Raises:
        ArtefactError: naming the first file that is missing or differs.
    """
    for name, entry in manifest.files.items():
        data = _read_bytes(folder / name)
        if len(data) != entry.bytes:
            raise ArtefactError(
                f"{folder / name} has {len(data)} bytes, the manifest says {entry.bytes}; the file "
                "is truncated or belongs to another artefact: copy or compile it again"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256:
            raise ArtefactError(
                f"{folder / name} has SHA-256 {digest[:12]}..., the manifest says "
                f"{entry.sha256[:12]}...; the file was altered or belongs to another artefact: "
                "copy or compile it again"
            )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtefactError(
            f"cannot read {path} ({error.strerror}); give the folder that the compiler wrote"
        ) from error
