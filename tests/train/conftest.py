"""Small labelled images for the tests of tvm_insta.train."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

CLASSES = ("circle", "square")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(label: int, generator: np.random.Generator) -> bytes:
    """A PNG of 32x32: noise, brighter above for one class and below for the other."""
    pixels = generator.integers(0, 120, (32, 32, 3))
    half = slice(0, 16) if label == 0 else slice(16, 32)
    pixels[half] += 130
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_data_set(root: Path, train: int = 24, test: int = 8) -> Path:
    """An ImageFolder with `train` and `test` images per class."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index:03}.png").write_bytes(picture(label, generator))
    return root


def as_zip(folder: Path, file: Path, *, inside: str = "") -> Path:
    """The images of a folder as a zip file, under `inside`."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, f"{inside}{path.relative_to(folder).as_posix()}")
    return file


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")
