"""Images decoded once and kept as bytes: for data sets that fit into memory."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image

from tvm_insta.errors import DataError
from tvm_insta.train.data.listing import Listing, find
from tvm_insta.train.files import write_atomically

_log = logging.getLogger(__name__)
_KEY = "tvm_insta.classes"


@dataclass(frozen=True)
class Images:
    """Labelled images of one size.

    Attributes:
        pixels: `[M, 3, S, S]` uint8, RGB.
        labels: `[M]` int64.
        classes: Names; a label is an index into them.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)


def load(
    data: Path,
    split: str,
    size: int,
    *,
    cache: Path | None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Decode a split, or read what an earlier run has decoded.

    Args:
        data: See `tvm_insta.train.data.listing.find`.
        split: "train" or "test".
        size: Height and width; an image of another size is scaled so that its shorter side fits,
            and cut at the centre.
        cache: Folder of decoded images; None takes the user's cache folder.
        limit: Only the first so many images of each class.
        progress: Called with the number of images decoded so far and of all.

    Returns:
        The images.

    Raises:
        DataError: The data set is incomplete, or an image is damaged.
    """
    listing = find(data, split)
    if limit is not None:
        listing = listing.limited(limit)
    file = (cache or default_cache()) / f"{_digest(listing, size)}.safetensors"
    found = _read(file)
    if found is not None:
        return found
    images = Images(
        pixels=_decode(listing, size, progress),
        labels=torch.tensor(listing.labels, dtype=torch.int64),
        classes=listing.classes,
    )
    content = safetensors.torch.save(
        {"pixels": images.pixels, "labels": images.labels},
        metadata={_KEY: json.dumps(images.classes)},
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    except OSError as error:
        # Only the next run's decoding would have been saved.
        _log.warning("the decoded images were not kept (%s)", error)
    return images


def default_cache() -> Path:
    """Give the folder where decoded images are kept: XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tvm_insta" / "images"


def decode(content: bytes, size: int) -> torch.Tensor:
    """Decode one image.

    Args:
        content: An encoded image.
        size: Height and width of the result.

    Returns:
        `[3, size, size]` uint8, RGB.

    Raises:
        OSError, ValueError, SyntaxError: What PIL raises for a damaged image.
    """
    with Image.open(io.BytesIO(content)) as opened:
        image = opened.convert("RGB")
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _decode(
    listing: Listing, size: int, progress: Callable[[int, int], None] | None
) -> torch.Tensor:
    total = len(listing.names)
    pixels = torch.empty((total, 3, size, size), dtype=torch.uint8)
    with listing.opened() as reader:
        for index, name in enumerate(listing.names):
            try:
                pixels[index] = decode(reader.read(name), size)
            except Exception as error:
                # PIL and zipfile raise almost anything for damaged bytes.
                raise DataError(
                    f"image {name} of {listing.origin} cannot be decoded ({error}): replace or "
                    "remove it"
                ) from error
            if progress is not None:
                progress(index + 1, total)
    return pixels


def _digest(listing: Listing, size: int) -> str:
    """Identify what would be decoded: names, sizes and times of the files, and the size wanted."""
    digest = hashlib.sha256(f"1 {size} {listing.origin.resolve()}".encode())
    if listing.origin.is_dir():
        for name in listing.names:
            state = (listing.origin / name).stat()
            digest.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    else:
        state = listing.origin.stat()
        digest.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
        digest.update("\n".join(listing.names).encode())
    return digest.hexdigest()[:32]


def _read(file: Path) -> Images | None:
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            classes = json.loads(opened.metadata()[_KEY])
            pixels, labels = opened.get_tensor("pixels"), opened.get_tensor("labels")
    except Exception as error:
        # Anything may stand in a damaged file; decoding again replaces it.
        _log.warning("%s is damaged (%s): the images are decoded again", file, error)
        return None
    return Images(pixels, labels, tuple(str(name) for name in classes))
