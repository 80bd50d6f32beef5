"""A folder that appears complete or not at all."""

from __future__ import annotations

import errno

import pytest

from tvm_insta.codegen import staged
from tvm_insta.errors import ArtefactError


def test_files_appear_at_the_end(tmp_path):
    folder = tmp_path / "new" / "deep"
    with staged(folder) as stage:
        (stage / "model.so").write_text("so")
        (stage / "model.json").write_text("json")
        assert [p.name for p in folder.iterdir()] == [stage.name]
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.so"]


def test_a_full_disk_leaves_nothing(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(ArtefactError, match=r"No space left.*free space"):
        with staged(folder) as stage:
            (stage / "model.so").write_text("so")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert not folder.exists()


def test_an_error_leaves_the_old_artefact(tmp_path):
    (tmp_path / "model.json").write_text("old")
    with pytest.raises(KeyError):
        with staged(tmp_path) as stage:
            (stage / "model.json").write_text("new")
            raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]
    assert (tmp_path / "model.json").read_text() == "old"


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot write to"):
        with staged(tmp_path / "file" / "net"):
            pass
