"""A folder that appears complete or not at all."""

from __future__ import annotations

import errno

import pytest

from tests.cross import small_network
from tvm_insta import compile as command
from tvm_insta.codegen import staged
from tvm_insta.codegen.staging import check_folder
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


def test_what_is_known_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "deeper")
    assert not (tmp_path / "new").exists()
    for bad in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(ArtefactError, match=r"file is no folder\); name another output"):
            check_folder(bad)


def test_a_file_in_the_way_is_said_before_anything_is_compiled(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    argv = [*small_network.arguments(tmp_path / "file"), "--target", "llvm"]
    assert command.main(argv) == 2
    said = capsys.readouterr()
    assert "cannot write to" in said.err and "export" not in said.err + said.out


def test_a_batch_that_no_manifest_holds_is_said_before_anything_is_compiled(tmp_path, capsys):
    argv = [*small_network.arguments(tmp_path / "out"), "--max-batch", str(2**31)]
    assert command.main([*argv, "--target", "llvm"]) == 2
    said = capsys.readouterr()
    assert "at most 2147483647" in said.err and "export" not in said.err + said.out
