"""The file `model.json`: read, checked and written; what is in it says `runtime.entries`.

Nothing in the file is used before it is checked: the whole by a hash over its canonical form, each
entry by its type and its range. Hashes guard against damage and mix-ups; they are no signature, and
a `.so` is native code: load only artefacts you trust (docs/security.md).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tvm_insta.errors import ArtefactError, InputError, one_line
from tvm_insta.files import write_atomically
from tvm_insta.runtime.entries import (
    SCHEMA,
    Binarisation,
    FileEntry,
    Kernel,
    Layer,
    Manifest,
    Memory,
    Schedule,
    Site,
    TensorInfo,
)
from tvm_insta.runtime.manifest_checks import is_file_name
from tvm_insta.runtime.regular_file import digest, open_regular, read_regular
from tvm_insta.runtime.schema import SchemaError, from_json

__all__ = [
    "FILE_NAME",
    "INTEGRITY",
    "SCHEMA",
    "Binarisation",
    "FileEntry",
    "Kernel",
    "Layer",
    "Manifest",
    "Memory",
    "Schedule",
    "Site",
    "TensorInfo",
    "check_files",
    "describe_files",
    "listed_files",
    "read",
    "sealed",
    "write",
]

FILE_NAME = "model.json"
INTEGRITY = "integrity"
"""Key of the SHA-256 over the canonical form of all other keys."""
MOST_BYTES = 64 << 20
"""Of a manifest; ResNet-18's has 0.1 MB."""


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
        with open_regular(folder / name) as descriptor:
            entries[name] = FileEntry(*digest(descriptor, folder / name))
    return entries


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys and values of a manifest, with their own hash as the last.

    Raises:
        ArtefactError: a value has no form in JSON.
    """
    whole = {key: value for key, value in data.items() if key != INTEGRITY}
    return {**whole, INTEGRITY: hashlib.sha256(_canonical(whole)).hexdigest()}


def write(folder: Path, manifest: Manifest) -> Path:
    """Write `model.json` into `folder`: completely, or not at all.

    Raises:
        ArtefactError: if it cannot be written, or holds something JSON has no form for.
    """
    path = folder / FILE_NAME
    # As a reader sees it: tuples are lists, and every key is text.
    data = json.loads(_text(dataclasses.asdict(manifest), indent=1))
    text = _text(sealed(data), indent=1) + "\n"
    try:
        write_atomically(path, text.encode("utf-8"))
    except OSError as error:
        raise ArtefactError(
            f"cannot write {path} ({error.strerror}); free space or name another output folder"
        ) from error
    return path


def read(path: Path) -> Manifest:
    """Read and check a manifest; `path` is the JSON file.

    Raises:
        ArtefactError: if it is missing, damaged, altered, of another schema, or has an entry that
            no manifest has.
    """
    data = _parsed(path)
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(data, dict) or schema != SCHEMA:
        raise ArtefactError(
            f"{path} has schema {one_line(repr(schema), 60)}, this tvm_insta reads {SCHEMA!r}; "
            "compile the model again with this version"
        )
    if sealed(data)[INTEGRITY] != data.pop(INTEGRITY, None):
        raise ArtefactError(
            f"{path} is not as the compiler wrote it: its entries do not have the SHA-256 under "
            f"{INTEGRITY!r}; copy or compile the artefact again"
        )
    try:
        return from_json(Manifest, data)
    except (SchemaError, ArtefactError) as error:
        raise ArtefactError(
            f"{path}: {one_line(error, 400)}; the artefact is damaged: compile it again"
        ) from error


def listed_files(path: Path) -> tuple[str, ...]:
    """Names of the files beside a manifest that belong to its artefact, whatever its schema.

    Returns:
        Plain names; none where the file is missing or is not as a compiler wrote it.
    """
    try:
        data = _parsed(path)
        if not isinstance(data, dict) or sealed(data)[INTEGRITY] != data.get(INTEGRITY):
            return ()
    except ArtefactError:
        return ()
    files = data.get("files")
    return tuple(filter(is_file_name, files)) if isinstance(files, dict) else ()


def check_files(folder: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Compare size and hash of every listed file, or of those of these `names`.

    Raises:
        ArtefactError: naming the first file that is missing or differs.
    """
    for name in manifest.files if names is None else names:
        path, entry = folder / name, manifest.files[name]
        with open_regular(path) as descriptor:
            check_size(path, entry, os.fstat(descriptor).st_size)
            check_entry(path, entry, *digest(descriptor, path))


def check_size(path: Path, entry: FileEntry, size: int) -> None:
    """Refuse a file of another size than the manifest says: there is no need to read it."""
    if size != entry.bytes:
        raise ArtefactError(
            f"{path} has {size} bytes, the manifest says {entry.bytes}; the file is truncated or "
            "belongs to another artefact: copy or compile it again"
        )


def check_entry(path: Path, entry: FileEntry, size: int, sha256: str) -> None:
    """Compare what was read with the manifest.

    Raises:
        ArtefactError: it is another file.
    """
    check_size(path, entry, size)
    if sha256 != entry.sha256:
        raise ArtefactError(
            f"{path} has SHA-256 {sha256[:12]}..., the manifest says {entry.sha256[:12]}...; the "
            "file was altered or belongs to another artefact: copy or compile it again"
        )


def _canonical(data: Mapping[str, Any]) -> bytes:
    """One form for one meaning: keys in order, no spaces, UTF-8."""
    text = _text(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _no_json(error) from error


def _text(data: Mapping[str, Any], **form: Any) -> str:
    try:
        return json.dumps(data, allow_nan=False, **form)
    except (TypeError, ValueError, RecursionError) as error:
        raise _no_json(error) from error


def _no_json(error: Exception) -> ArtefactError:
    return ArtefactError(
        f"the manifest holds a value that JSON cannot express ({one_line(error)}); use strings, "
        "numbers, lists and dictionaries"
    )


def _parsed(path: Path) -> Any:
    try:
        text = read_regular(path, MOST_BYTES).decode("utf-8")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(
            f"{path} is no valid JSON ({one_line(error)}); the artefact is damaged: copy or "
            "compile it again"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values of one key counts, readers do not agree on."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
