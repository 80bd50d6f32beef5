"""Lists of labelled image files: folders and zip files in the layout of torchvision's ImageFolder.

`<split>/<class>/<image>`; the classes are the sorted names of the folders. A split is a folder or a
zip file; a zip file may hold one split or several.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from tvm_insta.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
TRAIN = ("train", "training")
TEST = ("test", "val", "valid", "validation")


class Reader(Protocol):
    """Gives the bytes of an image by its name."""

    def read(self, name: str) -> bytes:
        """Give the bytes of one file.

        Args:
            name: As listed.
        """
        ...


@dataclass(frozen=True)
class Listing:
    """The labelled images of one split.

    Attributes:
        origin: The folder or zip file.
        names: Image files, relative to the origin, class by class and sorted.
        labels: Class of each, an index into `classes`.
        classes: Sorted names.
    """

    origin: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        """Open the origin for reading."""
        if self.origin.is_dir():
            yield _Folder(self.origin)
            return
        with _zip(self.origin) as archive:
            yield archive


@dataclass(frozen=True)
class _Folder:
    root: Path

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is no readable zip file ({error}): download it again") from error


def find(data: Path, split: str) -> Listing:
    """Find a split of a data set.

    Args:
        data: A folder that holds the splits as folders or zip files, or one zip file of them.
        split: "train" or "test".

    Returns:
        Its images.

    Raises:
        DataError: There is no such folder, split, class or image.
    """
    names = TRAIN if split == "train" else TEST
    if not data.exists():
        raise DataError(f"{data} does not exist: give the folder or zip file of the data set")
    if data.is_file():
        return _from_zip(data, names)
    for name in names:
        if (data / name).is_dir():
            return _from_folder(data / name)
        if (data / f"{name}.zip").is_file():
            return _from_zip(data / f"{name}.zip", names)
    wanted = " or ".join(f"{name}[.zip]" for name in names)
    raise DataError(f"{data} has no {split} images: they must lie in {wanted} there")


def _from_folder(folder: Path) -> Listing:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    empty = [path.name for path in folder.iterdir() if path.is_dir()]
    return _listing(folder, "", [PurePosixPath(path.as_posix()) for path in files], empty)


def _from_zip(path: Path, splits: tuple[str, ...]) -> Listing:
    with _zip(path) as archive:
        members = [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
        folders = [PurePosixPath(name) for name in archive.namelist() if name.endswith("/")]
    tops = {member.parts[0] for member in members if len(member.parts) > 2}
    prefix = next((name for name in splits if name in tops), "")
    if not prefix and tops & {*TRAIN, *TEST}:
        raise DataError(
            f"{path} holds {', '.join(sorted(tops))}, but no {' or '.join(splits)}: give a zip "
            "file with both splits, or a folder with a zip file for each"
        )
    if prefix:
        members = [m.relative_to(prefix) for m in members if m.parts[0] == prefix]
        folders = [f.relative_to(prefix) for f in folders if f.parts[0] == prefix]
    classes = [folder.parts[0] for folder in folders if folder.parts]
    return _listing(path, f"{prefix}/" if prefix else "", members, classes)


def _listing(origin: Path, prefix: str, files: list[PurePosixPath], folders: list[str]) -> Listing:
    images = [f for f in files if len(f.parts) > 1 and f.suffix.lower() in SUFFIXES]
    classes = sorted({*(image.parts[0] for image in images), *folders})
    if len(classes) < 2:
        raise DataError(
            f"{origin} has {len(classes)} classes, but at least 2 are needed: each class is a "
            "folder of images, <split>/<class>/<image>"
        )
    number = {name: index for index, name in enumerate(classes)}
    ordered = sorted((number[image.parts[0]], image.as_posix()) for image in images)
    labels = tuple(label for label, _ in ordered)
    for name in classes:
        if number[name] not in labels:
            raise DataError(
                f"class {name} of {origin} has no images: add some ({', '.join(SUFFIXES)}) or "
                "remove its folder"
            )
    return Listing(origin, tuple(prefix + name for _, name in ordered), labels, tuple(classes))
