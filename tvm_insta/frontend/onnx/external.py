"""Tensors that lie in files beside the model: only regular files of its own folder are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.limits import EXTERNAL_BYTES
from tvm_insta.frontend.onnx.tensors import check_tensor, stored_bytes

_KEYS = frozenset({"location", "offset", "length", "checksum", "basepath"})
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""A link is not followed, and a pipe is not waited for."""


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors of ``model`` whose data is in another file."""
    return [t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]


def load_external(model: onnx.ModelProto, folder: Path | None) -> tuple[Path, ...]:
    """Read the external data of ``model`` from ``folder`` into it.

    Returns:
        The files that were read, sorted.

    Raises:
        ImportModelError: data is said to lie outside the folder, in a link, beyond the end of a
            file, in too large a file; or there is no folder, as the model came as bytes.
    """
    tensors = external_tensors(model)
    if not tensors:
        return ()
    if folder is None:
        raise ImportModelError(
            f"tensor {tensors[0].name!r} lies in another file, but the model came without a "
            "folder: give the path of the .onnx file"
        )
    total = 0
    for tensor in tensors:
        check_tensor(tensor, f"initialiser {tensor.name!r}")
        total += stored_bytes(tensor)
        if total > EXTERNAL_BYTES:
            raise ImportModelError(
                f"the tensors in other files have more than {EXTERNAL_BYTES} bytes, which is more "
                "than is taken"
            )
    files = set()
    for tensor in tensors:
        tensor.raw_data = _read(tensor, folder)
        files |= {folder / e.value for e in tensor.external_data if e.key == "location"}
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return tuple(sorted(files))


def _read(tensor: onnx.TensorProto, folder: Path) -> bytes:
    what = f"tensor {tensor.name!r}"
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    if set(fields) - _KEYS or not location:
        raise ImportModelError(f"{what} lies in another file, but the model does not say in which")
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive
    if absolute or ".." in parts or "\0" in location:
        raise ImportModelError(
            f"{what} lies in {location!r}, but only files in the model's own folder are read"
        )
    path = folder / location
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ImportModelError(
            f"{what} lies in {location!r}, but only files in the model's own folder are read"
        )
    try:
        offset = int(fields.get("offset", "0"))
        length = int(fields.get("length", str(stored_bytes(tensor))))
    except ValueError as error:
        raise ImportModelError(
            f"{what} has an offset or length that is no number ({error})"
        ) from error
    try:  # what is checked is the opened file: it cannot be exchanged behind the check
        with os.fdopen(os.open(path, os.O_RDONLY | _NO_LINKS), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
                raise ImportModelError(
                    f"{what} lies in {location!r}, which is a link or no regular file: put a copy "
                    "beside the .onnx file"
                )
            if offset < 0 or length != stored_bytes(tensor) or offset + length > state.st_size:
                raise ImportModelError(
                    f"{what} is said to be bytes {offset} to {offset + length} of {location!r}, "
                    f"but it has {stored_bytes(tensor)} bytes and the file {state.st_size}"
                )
            file.seek(offset)
            return file.read(length)
    except (OSError, ValueError) as error:
        if isinstance(error, ImportModelError):
            raise
        raise ImportModelError(
            f"{what} lies in {location!r}, which cannot be read ({error}): keep a plain file of "
            "that name beside the .onnx file"
        ) from error


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [model.graph]
    functions = [node for function in model.functions for node in function.node]
    while graphs:
        graph = graphs.pop()
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        for node in (*graph.node, *functions):
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)
        functions = []
