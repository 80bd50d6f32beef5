"""Commands that take any number of images: few are in memory at once, and nothing else changes."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import tvm_insta
from tvm_insta import run
from tvm_insta.cli import run as run_module
from tvm_insta.runtime import preprocess
from tvm_insta.runtime.preprocess import Preprocessing, image_batches, load_images
from tvm_insta.validate import validate
from tvm_insta.validate.inputs import Files

HOW = {"resize": [6, 5], "mode": "RGB", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
COUNT = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images in folders of classes, one of which the network does not have."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(3)
    for number in range(COUNT):
        (root / ["1", "2", "cat"][number % 3]).mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / ["1", "2", "cat"][number % 3] / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 4)).eval()


@pytest.fixture(scope="module")
def artefact(network, tmp_path_factory):
    example = torch.zeros(1, 3, 6, 5)
    out = tmp_path_factory.mktemp("net")
    return tvm_insta.build(network, example, out_dir=out, max_batch=2, preprocessing=HOW)


@pytest.fixture
def most_at_once(monkeypatch):
    """How many images were read at once, at most."""
    sizes, read = [], preprocess.load_images

    def counted(paths, *args):
        sizes.append(len(paths))
        return read(paths, *args)

    for module in (preprocess, "tvm_insta.validate.inputs"):
        target = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{target}.load_images", counted)
    return lambda: max(sizes)


def test_run_reads_batches_and_prints_the_same(artefact, folder, capsys, most_at_once, tmp_path):
    files = sorted(folder.glob("*/*.png"))
    batch = load_images(files, HOW)
    logits = np.concatenate([artefact(batch[i : i + 1]) for i in range(COUNT)])
    dump = tmp_path / "batch.raw"
    arguments = [str(artefact.path), str(folder), "--top", "2", "--dump-input", str(dump)]
    assert run.main(arguments) == 0
    assert most_at_once() == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"wrote {dump}: [7, 3, 6, 5] float32"
    assert dump.read_bytes() == batch.tobytes()
    for file, row, line in zip(files, logits, printed[1:], strict=False):
        first, second = np.argsort(-row, kind="stable")[:2]
        shown = f"{first} ({row[first]:.3f}), {second} ({row[second]:.3f})"
        assert line == f"{file}: {shown}"
    assert printed[COUNT + 1].startswith(
        "cat are no classes of this network, which are called 0 to"
    )
    labelled = [(file.parent.name, row) for file, row in zip(files, logits, strict=True)]
    right = sum(label == str(row.argmax()) for label, row in labelled if label != "cat")
    assert printed[COUNT + 2] == f"accuracy {100 * right / 5:.2f} % ({right} of 5 images)"
    assert re.fullmatch(r"7 images in .* ms \(.* ms each\)", printed[-1])


def test_a_damaged_image_prints_no_class_and_leaves_no_dump(artefact, folder, capsys, tmp_path):
    broken, dump = tmp_path / "broken.png", tmp_path / "out" / "batch.raw"
    broken.write_bytes(b"no image")
    dump.parent.mkdir()
    arguments = [str(artefact.path), str(folder / "1"), str(broken), "--dump-input", str(dump)]
    assert run.main(arguments) == 2
    printed = capsys.readouterr()
    assert str(broken) in printed.err and not printed.out
    assert not list(dump.parent.iterdir())


def test_validate_reads_one_image_at_a_time_and_finds_the_same(
    artefact, network, folder, most_at_once
):
    files = sorted(folder.glob("*/*.png"))
    whole = torch.from_numpy(load_images(files, HOW))
    one_by_one = Files(files, Preprocessing.from_dict(HOW), "float32")
    found = validate(artefact.load(), network, one_by_one)
    assert found == validate(artefact.load(), network, [whole])
    assert found.verdict == "valid" and found.images == COUNT
    assert most_at_once() == 1


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_batches_are_the_whole(folder, layout, dtype):
    how = Preprocessing.from_dict({**HOW, "layout": layout})
    files = sorted(folder.glob("*/*.png"))
    parts = list(image_batches(files, how, dtype, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    whole = load_images(files, how, dtype)
    assert whole.flags["C_CONTIGUOUS"] and whole.dtype == dtype
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_reading_takes_little_more_than_the_result(folder):
    """It took three times as much: pixels, float32, and those in the other order."""
    files = [next(folder.glob("*/*.png"))] * 40
    how = {**HOW, "resize": [120, 100]}
    load_images(files[:1], how)
    tracemalloc.start()
    try:
        size = load_images(files, how).nbytes
        assert tracemalloc.get_traced_memory()[1] < 1.2 * size
    finally:
        tracemalloc.stop()


def test_accuracy_of_many_classes_asks_a_set():
    """Comparisons of names grow with the images, not with images times classes."""

    class Name(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other):
            Name.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Name(f"class {i}") for i in range(500)]
    labels = tuple(f"class {i % 501}" for i in range(1000))
    images = run_module.ImageSet((), labels)
    lines = list(run_module._accuracy(images, labels, names))
    assert lines[0].startswith("class 500 are no classes") and lines[1].endswith("of 999 images)")
    assert Name.compared < 5000
