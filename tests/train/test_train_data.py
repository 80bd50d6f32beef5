"""Where images are found, what is decoded, and what is refused."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.conftest import CLASSES, as_zip, write_data_set
from tvm_insta.errors import DataError
from tvm_insta.runtime.images import load_pixels
from tvm_insta.train.data.load import load


def reference(folder, size=32):
    """All images of a split, decoded one by one."""
    pixels = []
    for path in sorted(folder.glob("*/*.png")):
        with Image.open(path) as image:
            pixels.append(np.asarray(image.convert("RGB").resize((size, size))))
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def test_every_layout_gives_the_same_images(data, tmp_path):
    whole = as_zip(data, tmp_path / "whole.zip")
    halves = tmp_path / "halves"
    halves.mkdir()
    as_zip(data / "train", halves / "train.zip", inside="train/")
    as_zip(data / "test", halves / "val.zip")
    expected = reference(data / "train")
    for place in (data, whole, halves):
        images = load(place, "train", 32, cache=tmp_path / "cache")
        assert torch.equal(images.pixels, expected), place
        assert images.labels.tolist() == [0] * 24 + [1] * 24
        assert images.classes == CLASSES
        assert len(load(place, "test", 32, cache=tmp_path / "cache")) == 16


def test_one_folder_more_and_what_file_managers_leave(data, tmp_path):
    """In zip files of whole data sets, of one split each, and in folders."""
    halves = tmp_path / "halves"
    halves.mkdir()
    places = [
        as_zip(data, tmp_path / "whole.zip", inside="cifar/version 2/"),
        halves,
    ]
    files = [
        places[0],
        as_zip(data / "train", halves / "train.zip", inside="images/"),
        as_zip(data / "test", halves / "test.zip", inside="test/"),
    ]
    for file in files:
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr("__MACOSX/images/circle/._000.png", b"rubbish")
            archive.writestr("cifar/.DS_Store", b"rubbish")
    expected = reference(data / "train")
    for place in places:
        images = load(place, "train", 32, cache=tmp_path / "cache")
        assert torch.equal(images.pixels, expected) and images.classes == CLASSES
        assert len(load(place, "test", 32, cache=tmp_path / "cache")) == 16
    folder = write_data_set(tmp_path / "folder", train=1, test=1)
    (folder / "train" / ".thumbnails").mkdir()
    (folder / "train" / "circle" / "._000.png").write_bytes(b"rubbish")
    assert len(load(folder, "train", 32, cache=tmp_path / "cache")) == 2


def test_a_zip_of_one_split_alone_is_not_taken_for_both(data, tmp_path):
    """Test images would be training images."""
    alone = as_zip(data / "train", tmp_path / "alone.zip")
    for split in ("train", "test"):
        with pytest.raises(DataError, match=f"holds circle, square, but no {split}"):
            load(alone, split, 32, cache=tmp_path / "cache")
    alone = as_zip(data / "train", tmp_path / "named.zip", inside="train/")
    assert len(load(alone, "train", 32, cache=tmp_path / "cache")) == 48
    with pytest.raises(DataError, match=r"holds .*, but no test"):
        load(alone, "test", 32, cache=tmp_path / "cache")


def test_a_full_disk_is_said_and_leaves_nothing(data, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"\(0 MB\) cannot be written to .*: make room there, or"):
        load(data, "train", 32, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_images_are_decoded_once_and_again_when_they_change(tmp_path):
    data = write_data_set(tmp_path / "data", train=2, test=1)
    decoded = []

    def tell(what, done, total):
        decoded.append((what, done, total))

    first = load(data, "train", 32, cache=tmp_path / "cache", progress=tell).pixels.clone()
    assert decoded == [("decoding train images", n, 4) for n in (1, 2, 3, 4)]
    again = load(data, "train", 32, cache=tmp_path / "cache", progress=tell)
    assert torch.equal(again.pixels, first) and len(decoded) == 4
    shutil.copyfile(data / "train" / "circle" / "000.png", data / "train" / "circle" / "001.png")
    changed = load(data, "train", 32, cache=tmp_path / "cache").pixels.clone()
    assert torch.equal(changed[1], first[0])
    for file in (tmp_path / "cache").glob("*.u8"):
        file.write_bytes(file.read_bytes()[:-1])  # a cache cut short is made anew
    assert torch.equal(load(data, "train", 32, cache=tmp_path / "cache").pixels, changed)


def test_other_sizes_are_scaled_and_cut_at_the_centre(tmp_path):
    data = write_data_set(tmp_path / "data", train=1, test=1)
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200  # the middle third
    Image.fromarray(wide).save(data / "train" / "circle" / "000.png")
    pixels = load(data, "train", 8, cache=tmp_path / "cache").pixels
    assert pixels.shape == (2, 3, 8, 8)
    assert bool((pixels[0] == 200).all())


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.dstack([RAMP, RAMP[::-1], RAMP.T])
KINDS = {
    "16 bits": Image.fromarray(RAMP * np.uint16(257)),
    "alpha": Image.fromarray(np.dstack([COLOURS, RAMP.T])),
    "grey and alpha": Image.fromarray(np.dstack([RAMP, RAMP.T])),
    "grey": Image.fromarray(RAMP),
    "palette": Image.fromarray(COLOURS).convert("P"),
    "colours": Image.fromarray(COLOURS),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_training_sees_the_pixels_that_the_artefact_is_given(kind, turned, tmp_path):
    data = write_data_set(tmp_path / "data", train=1, test=1)
    path = data / "train" / "circle" / "000.png"
    exif = Image.Exif()
    exif[0x112] = 6 if turned else 1  # a camera held upright
    KINDS[kind].save(path, exif=exif)
    pixels = load(data, "train", 16, cache=tmp_path / "cache").pixels[0]
    given = load_pixels(path, "RGB", (16, 16), "bilinear")
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), given)


@pytest.mark.parametrize("inside", [False, True])
def test_torchvision_cifar_folder(tmp_path, inside):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(1)
    everything = []
    for file in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        data = generator.integers(0, 256, (3, 3072), dtype=np.uint8)
        everything.append(data.reshape(3, 3, 32, 32))
        with (folder / file).open("wb") as opened:
            pickle.dump({b"data": data, b"labels": [0, 1, 2]}, opened, protocol=2)
    with (folder / "batches.meta").open("wb") as opened:
        pickle.dump({b"label_names": [b"cat", b"dog", b"ship"]}, opened, protocol=2)
    place = folder if inside else tmp_path
    images = load(place, "train", 32)
    assert np.array_equal(images.pixels.numpy(), np.concatenate(everything[:5]))
    assert images.labels.tolist() == [0, 1, 2] * 5 and images.classes == ("cat", "dog", "ship")
    assert np.array_equal(load(place, "test", 32).pixels.numpy(), everything[5])
    (folder / "data_batch_3").write_bytes(pickle.dumps(print))  # asks for code
    with pytest.raises(DataError, match=r"data_batch_3 cannot be read \(it asks for builtins"):
        load(place, "train", 32)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        load(place, "train", 32)


def break_image(data):
    path = data / "train" / "square" / "001.png"
    path.write_bytes(path.read_bytes()[:90])


def empty_class(data):
    for path in (data / "train" / "square").iterdir():
        path.unlink()


def remove_split(data):
    shutil.rmtree(data / "test")


def remove_class(data):
    shutil.rmtree(data / "train" / "square")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_image, r"image square/001.png of .* cannot be decoded \(.*\): replace"),
        (empty_class, "class square of .* has no images: add some"),
        (remove_split, r"has no test images: they must lie in test\[.zip\]"),
        (remove_class, "has 1 classes, but at least 2"),
        (shutil.rmtree, "does not exist: give the folder or zip file"),
    ],
)
def test_a_damaged_data_set_is_refused_in_one_sentence(tmp_path, damage, message):
    data = write_data_set(tmp_path / "data", train=2, test=1)
    damage(data)
    with pytest.raises(DataError, match=message) as caught:
        load(data, "train", 32, cache=tmp_path / "cache")
        load(data, "test", 32, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").glob(".*")), "a partial file was left"


def test_a_damaged_zip_is_refused(data, tmp_path):
    whole = as_zip(data, tmp_path / "whole.zip")
    content = bytearray(whole.read_bytes())
    middle = content.index(b"train/circle/003.png") + 200
    content[middle : middle + 50] = bytes(50)
    whole.write_bytes(content)
    with pytest.raises(DataError, match=r"image train/circle/003.png .* cannot be decoded"):
        load(whole, "train", 32, cache=tmp_path / "cache")
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is no readable zip file"):
        load(whole, "train", 32, cache=tmp_path / "cache")
