"""Images decoded once, into a file of bytes that later runs map into memory.

A mapped file is read where it is needed: a data set may be larger than the memory (ImageNet at
256x256 is 250 GB on disk).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tvm_insta.errors import DataError
from tvm_insta.files import replacing, write_atomically
from tvm_insta.runtime.images import as_shown
from tvm_insta.train.data import cifar
from tvm_insta.train.data.images import Images
from tvm_insta.train.data.listing import Listing, Reader, find

_log = logging.getLogger(__name__)
# Images that are decoded, but not yet written.
_AHEAD = 256

Tell = Callable[[str, int, int], None]


def load(
    data: Path, split: str, size: int, *, cache: Path | None = None, progress: Tell | None = None
) -> Images:
    """Decode a split, or map what an earlier run has decoded.

    Args:
        data: A folder of `tvm_insta.train.data.cifar`, or see `tvm_insta.train.data.listing.find`.
        split: "train" or "test".
        size: Height and width; an image of another size is scaled so that its shorter side fits,
            and cut at the centre. CIFAR folders have 32.
        cache: Folder of decoded images; None takes the user's cache folder.
        progress: Called with what is done, and the numbers of images done and in all.

    Returns:
        The images.

    Raises:
        DataError: The data set is incomplete, an image is damaged, or the cache cannot be written.
    """
    folder = cifar.folder_of(data)
    if folder is not None:
        if size != 32:
            raise DataError(f"got size {size}, but the images of {folder} are of size 32")
        return cifar.load(folder, split)
    listing = find(data, split)
    base = (cache or default_cache()) / _digest(listing, size)
    found = _mapped(base, listing, size)
    if found is not None:
        return found
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        with listing.opened() as reader, replacing(base.with_suffix(".u8")) as file:
            total = len(listing.names)
            for done, pixels in enumerate(_decoded(listing, reader, size), start=1):
                file.write(pixels.tobytes())
                if progress is not None:
                    progress(f"decoding {split} images", done, total)
        write_atomically(base.with_suffix(".json"), json.dumps(listing.classes).encode())
    except OSError as error:
        raise DataError(
            f"the decoded images ({len(listing.names) * 3 * size * size / 1e6:.0f} MB) cannot be "
            f"written to {base.parent} ({error}): make room there, or give another --cache"
        ) from error
    found = _mapped(base, listing, size)
    if found is None:
        raise DataError(f"{base.parent} does not keep what is written there: give another --cache")
    return found


def default_cache() -> Path:
    """Give the folder where decoded images are kept: XDG_CACHE_HOME, or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tvm_insta" / "images"


def decode(content: bytes, size: int) -> npt.NDArray[np.uint8]:
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
        opened.draft("RGB", (size, size))  # a large JPEG is decoded at a fraction of its size
        image = as_shown(opened, "RGB")  # the pixels that the compiled network will be given
    if image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _decoded(listing: Listing, reader: Reader, size: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode all images in order, on threads: PIL lets go of Python's lock while it decodes."""

    def one(item: tuple[str, bytes]) -> npt.NDArray[np.uint8]:
        name, content = item
        try:
            return decode(content, size)
        except Exception as error:
            # PIL raises almost anything for damaged bytes.
            raise _damaged(listing, name, error) from error

    def contents(names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            try:
                yield name, reader.read(name)
            except Exception as error:
                raise _damaged(listing, name, error) from error

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(listing.names), _AHEAD):
            yield from pool.map(one, contents(listing.names[start : start + _AHEAD]))


def _damaged(listing: Listing, name: str, error: Exception) -> DataError:
    return DataError(
        f"image {name} of {listing.origin} cannot be decoded ({error}): replace or remove it"
    )


def _digest(listing: Listing, size: int) -> str:
    """Identify what would be decoded: names, sizes and times of the files, and the size wanted."""
    digest = hashlib.sha256(f"3 {size} {listing.origin.resolve()}".encode())
    if listing.origin.is_dir():
        for name in listing.names:
            state = (listing.origin / name).stat()
            digest.update(f"{name} {state.st_size} {state.st_mtime_ns}\n".encode())
    else:
        state = listing.origin.stat()
        digest.update(f"{state.st_size} {state.st_mtime_ns}\n".encode())
        digest.update("\n".join(listing.names).encode())
    return digest.hexdigest()[:32]


def _mapped(base: Path, listing: Listing, size: int) -> Images | None:
    file, count = base.with_suffix(".u8"), len(listing.names)
    numbers = count * 3 * size * size
    if not file.is_file() or not base.with_suffix(".json").is_file():
        return None
    if file.stat().st_size != numbers:
        _log.warning("%s is incomplete: the images are decoded again", file)
        return None
    flat = torch.from_file(str(file), shared=False, size=numbers, dtype=torch.uint8)
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    return Images(flat.view(count, 3, size, size), labels, listing.classes)
