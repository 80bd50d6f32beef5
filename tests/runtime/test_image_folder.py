"""Which files of a folder are images, and which classes their folders name."""

from __future__ import annotations

import pytest

from tvm_insta.errors import InputError
from tvm_insta.runtime.image_folder import image_set


@pytest.fixture
def tree(tmp_path):
    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir()
            else:
                path.touch()
        return tmp_path

    return make


def names(root, found):
    return [str(file.relative_to(root)) for file in found.files]


def test_folders_of_classes(tree):
    root = tree("cat/b.png", "cat/a.JPG", "dog/c.tif", "cat/notes.txt", "readme.md")
    found = image_set([root])
    assert names(root, found) == ["cat/a.JPG", "cat/b.png", "dog/c.tif"]
    assert found.labels == ("cat", "cat", "dog") and not found.notes


def test_images_beside_folders_are_classified(tree):
    root = tree("cat/a.png", "b.png", "c.png")
    found = image_set([root])
    assert names(root, found) == ["b.png", "c.png", "cat/a.png"]
    assert found.labels == (None, None, "cat")
    assert len(found.notes) == 1 and "2 images lie in" in found.notes[0]


def test_hidden_ones_are_left_out(tree):
    root = tree("a.png", ".b.png", "._a.png", ".thumbnails/c.png", ".empty/")
    found = image_set([root])
    assert names(root, found) == ["a.png"] and found.labels == (None,) and not found.notes


def test_folders_without_images_are_named(tree):
    root = tree("a.png", "notes/x.txt", "deep/cat/b.png")
    found = image_set([root])
    assert names(root, found) == ["a.png"]
    assert len(found.notes) == 1 and "deep" in found.notes[0] and "notes" in found.notes[0]
    root = tree("cat/c.png")
    assert image_set([root]).labels == (None, "cat")
    assert len(image_set([root]).notes) == 2


def test_several_paths_have_no_classes(tree):
    root = tree("cat/a.png", "dog/b.png")
    found = image_set([root / "dog", root / "cat" / "a.png"])
    assert names(root, found) == ["dog/b.png", "cat/a.png"] and found.labels == (None, None)


def test_nothing_to_classify(tree):
    root = tree("cat/a.txt", ".hidden/b.png", "folder.png/")
    with pytest.raises(InputError, match="holds no image"):
        image_set([root])
    with pytest.raises(InputError, match="does not exist"):
        image_set([root / "gone"])
