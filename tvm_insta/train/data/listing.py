"""Lists of labelled image files: folders and zip files in the layout of torchvision's ImageFolder.

`<split>/<class>/<image>`; the classes are the sorted names of the folders. A split is a folder or a
zip file; a zip file may hold one split or several.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
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
        return _from_zip(data, names, holds_both=True)
    for name in names:
        if (data / name).is_dir():
            return _from_folder(data / name)
        if (data / f"{name}.zip").is_file():
            return _from_zip(data / f"{name}.zip", names, holds_both=False)
    wanted = " or ".join(f"{name}[.zip]" for name in names)
    raise DataError(f"{data} has no {split} images: they must lie in {wanted} there")


def _from_folder(folder: Path) -> Listing:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    folders = [PurePosixPath(path.name) for path in folder.iterdir() if path.is_dir()]
    return _listing(folder, (), [PurePosixPath(path.as_posix()) for path in files], folders)


def _from_zip(path: Path, splits: tuple[str, ...], *, holds_both: bool) -> Listing:
    with _zip(path) as archive:
        names = archive.namelist()
    members = [PurePosixPath(name) for name in names if not name.endswith("/")]
    folders = [PurePosixPath(name) for name in names if name.endswith("/")]
    members = [member for member in members if not _is_rubbish(member)]
    tops = {member.parts[:-1] for member in members}
    # Packers often put everything into one folder more.
    common = _common(tops)
    starts = [common[:depth] for depth in range(len(common) + 1)]
    prefix = next(
        (
            (*start, split)
            for start in reversed(starts)
            for split in splits
            if any(top[: len(start) + 1] == (*start, split) for top in tops)
        ),
        None,
    )
    if prefix is None:
        others = sorted({top[len(common)] for top in tops if len(top) > len(common)})
        if holds_both or set(others) & {*TRAIN, *TEST}:
            raise DataError(
                f"{path} holds {', '.join(others[:5]) or 'nothing'}, but no "
                f"{' or '.join(splits)}: give a zip file with both splits, or a folder with a zip "
                "file for each"
            )
        prefix = common
    count = len(prefix)
    return _listing(
        path,
        prefix,
        [PurePosixPath(*m.parts[count:]) for m in members if m.parts[:count] == prefix],
        [PurePosixPath(*f.parts[count:]) for f in folders if f.parts[:count] == prefix],
    )


def _common(paths: set[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders with which all paths begin."""
    if not paths:
        return ()
    # What the first and the last in order share, all between them share.
    pairs = zip(min(paths), max(paths), strict=False)
    return tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_rubbish(path: PurePosixPath) -> bool:
    """Whether a file manager left it there, not a person."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _listing(
    origin: Path,
    prefix: tuple[str, ...],
    files: list[PurePosixPath],
    folders: list[PurePosixPath],
) -> Listing:
    images = [
        file
        for file in files
        if len(file.parts) > 1 and file.suffix.lower() in SUFFIXES and not _is_rubbish(file)
    ]
    named = [folder.parts[0] for folder in folders if folder.parts and not _is_rubbish(folder)]
    classes = sorted({*(image.parts[0] for image in images), *named})
    if len(classes) < 2:
        raise DataError(
            f"{origin} has {len(classes)} classes, but at least 2 are needed: each class is a "
            "folder of images, <split>/<class>/<image>"
        )
    number = {name: index for index, name in enumerate(classes)}
    ordered = sorted((number[image.parts[0]], image.as_posix()) for image in images)
    labels = tuple(label for label, _ in ordered)
    found = set(labels)
    for name in classes:
        if number[name] not in found:
            raise DataError(
                f"class {name} of {origin} has no images: add some ({', '.join(SUFFIXES)}) or "
                "remove its folder"
            )
    names = tuple(str(PurePosixPath(*prefix, name)) for _, name in ordered)
    return Listing(origin, names, labels, tuple(classes))
