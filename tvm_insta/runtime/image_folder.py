"""Image files in folders, and the classes that the names of folders tell of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_insta.errors import InputError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageSet:
    """Image files and what their folders say of them.

    Attributes:
        files: in the order of folders, then of names.
        labels: of each file the name of the folder it is in, or None.
        notes: what was left out or is not clear, one sentence each.
    """

    files: tuple[Path, ...]
    labels: tuple[str | None, ...]
    notes: tuple[str, ...] = ()


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The image files among `paths`; a folder gives those directly in it, sorted by name.

    Raises:
        InputError: for a path that does not exist or a folder without images.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = _images_in(path)
            if not found:
                raise InputError(
                    f"{path} holds no image; file names must end in {', '.join(IMAGE_ENDINGS)}"
                )
            files.extend(found)
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"{path} does not exist; give an image file or a folder of images")
    return files


def image_set(paths: Sequence[Path]) -> ImageSet:
    """The image files among `paths`; those in the subfolders of a single folder have labels.

    Hidden files and folders (".thumbnails") are left out.

    Raises:
        InputError: as `image_files`.
    """
    root = paths[0]
    folders = _folders_in(root) if len(paths) == 1 and root.is_dir() else []
    inside = {folder: _images_in(folder) for folder in folders}
    if not any(inside.values()):
        files = image_files(paths)
        return ImageSet(tuple(files), (None,) * len(files), _empty(folders))
    beside = _images_in(root)
    labelled = [(file, folder.name) for folder, found in inside.items() for file in found]
    notes = list(_empty([folder for folder, found in inside.items() if not found]))
    if beside:
        notes.append(
            f"{len(beside)} {'image lies' if len(beside) == 1 else 'images lie'} in {root} itself, "
            "beside the folders of classes: classified, but with no class to be compared with"
        )
    return ImageSet(
        (*beside, *(file for file, _ in labelled)),
        (*(None for _ in beside), *(label for _, label in labelled)),
        tuple(notes),
    )


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_ENDINGS
        and not path.name.startswith(".")
        and not path.is_dir()
    )


def _folders_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _empty(folders: Sequence[Path]) -> tuple[str, ...]:
    if not folders:
        return ()
    names = ", ".join(str(folder) for folder in folders[:3])
    more = f" and {len(folders) - 3} more" if len(folders) > 3 else ""
    return (f"there are no images directly in {names}{more}: left out",)
