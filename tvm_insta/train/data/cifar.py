"""CIFAR-10 and CIFAR-100 in the folders that torchvision keeps: pickled numpy arrays.

A pickle can run any code. These are read with an unpickler that makes numpy arrays and nothing
else.
"""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tvm_insta.errors import DataError
from tvm_insta.train.data.images import Images

_SIDE = 32
# Folder, files of the two splits, key of the labels, file and key of the names.
_LAYOUTS: dict[str, tuple[dict[str, tuple[str, ...]], bytes, tuple[str, bytes]]] = {
    "cifar-10-batches-py": (
        {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
        b"labels",
        ("batches.meta", b"label_names"),
    ),
    "cifar-100-python": (
        {"train": ("train",), "test": ("test",)},
        b"fine_labels",
        ("meta", b"fine_label_names"),
    ),
}


def folder_of(data: Path) -> Path | None:
    """Give the folder of a CIFAR data set, or None if there is none.

    Args:
        data: That folder, or the one that holds it (torchvision's `root`).
    """
    for name in _LAYOUTS:
        if data.name == name and data.is_dir():
            return data
        if (data / name).is_dir():
            return data / name
    return None


def load(folder: Path, split: str) -> Images:
    """Read a split.

    Args:
        folder: Of `folder_of`.
        split: "train" or "test".

    Returns:
        All its images, 32x32.

    Raises:
        DataError: A file is missing or damaged, or holds other things than arrays.
    """
    files, label_key, (meta, name_key) = _LAYOUTS[folder.name]
    pixels, labels = [], []
    names = _read(folder / meta).get(name_key)
    for file in files[split]:
        batch = _read(folder / file)
        data, own = batch.get(b"data"), batch.get(label_key)
        shape = getattr(data, "shape", ())
        if not isinstance(own, list) or len(shape) != 2 or shape != (len(own), 3 * _SIDE * _SIDE):
            raise DataError(f"{folder / file} holds no CIFAR images: download the data set again")
        pixels.append(np.asarray(data, np.uint8).reshape(-1, 3, _SIDE, _SIDE))
        labels += own
    classes = tuple(_text(name) for name in names or ())
    if not labels or min(labels) < 0 or max(labels) >= len(classes):
        raise DataError(f"{folder / meta} does not name all classes: download the data set again")
    return Images(torch.from_numpy(np.concatenate(pixels)), torch.tensor(labels), classes)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


class _ArraysOnly(pickle.Unpickler):
    """Knows the functions that numpy arrays are pickled with, old names and new, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in (
            "_reconstruct",
            "scalar",
        ):
            return getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read(file: Path) -> dict[Any, Any]:
    try:
        found = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing: download the data set again") from error
    except Exception as error:
        # Damaged pickles raise almost anything.
        raise DataError(f"{file} cannot be read ({error}): download the data set again") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} holds no CIFAR images: download the data set again")
    return found
