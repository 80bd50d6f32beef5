"""A folder that appears complete or not at all."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from tests.cross import small_network
from tests.support.artefact_nets import write_artefact
from tvm_insta import compile as command
from tvm_insta import runtime
from tvm_insta.codegen import staged
from tvm_insta.codegen.staging import check_folder
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import manifest as manifests

FOREIGN = ("notes.txt", "other.a", ".hidden")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(stage, files, **more):
    """An artefact as far as staging looks at it."""
    for name in files:
        (stage / name).write_text(f"of {sorted(files)}")
    data = {"files": {name: {} for name in files}, **more}
    (stage / "model.json").write_text(json.dumps(manifests.sealed(data)))


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


@pytest.mark.parametrize("schema", ["tvm_insta.artefact/1", manifests.SCHEMA])
def test_what_the_old_manifest_lists_goes_when_the_new_artefact_lands(tmp_path, schema):
    """A Makefile would link the old archive; what no manifest lists is somebody else's."""
    for name in FOREIGN:
        (tmp_path / name).write_text(name)
    with staged(tmp_path) as stage:
        write(stage, ["model.so", "model.a", "model.h"], schema=schema)
    with staged(tmp_path) as stage:
        write(stage, ["model.so"])
        assert (tmp_path / "model.a").exists()  # until then the old one is whole
    assert names(tmp_path) == sorted(["model.json", "model.so", *FOREIGN])
    assert (tmp_path / "model.so").read_text() == "of ['model.so']"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_artefact_that_does_not_land_removes_nothing(tmp_path, error):
    with staged(tmp_path) as stage:
        write(stage, ["model.so", "model.a"])
    with pytest.raises((KeyboardInterrupt, ArtefactError)), staged(tmp_path) as stage:
        write(stage, ["model.so"])
        raise error
    assert names(tmp_path) == ["model.a", "model.json", "model.so"]
    assert (tmp_path / "model.so").read_text() == "of ['model.a', 'model.so']"


def test_killed_before_the_manifest_moves(tmp_path, monkeypatch):
    """The manifest that stays still lists what has to go, so the next artefact removes it."""
    with staged(tmp_path) as stage:
        write(stage, ["model.so", "model.a"])
    move = Path.replace

    def killed(path, target):
        if path.name == "model.json":
            raise KeyboardInterrupt
        return move(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path) as stage:
        write(stage, ["net.so"])
    monkeypatch.undo()
    (tmp_path / "model.a").write_text("put back, or never removed")
    with staged(tmp_path) as stage:
        write(stage, ["other.so"])
    assert set(names(tmp_path)) == {"model.json", "net.so", "other.so"}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "no JSON",
        json.dumps({"files": {"model.a": {}}}),  # without its seal
        json.dumps({**manifests.sealed({"files": {"x": {}}}), "files": {"model.a": {}}}),
        json.dumps(manifests.sealed({"files": ["model.a"]})),
        json.dumps(manifests.sealed({"files": {"../model.a": {}, "sub": {}, "/etc/x": {}}})),
    ],
)
def test_a_manifest_that_the_compiler_did_not_write_removes_nothing(tmp_path, text):
    folder = tmp_path / "net"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "model.a", folder / "model.a", folder / "sub" / "model.a"):
        path.write_text("mine")
    (folder / "model.json").write_text(text)
    with staged(folder) as stage:
        write(stage, ["model.so"])
    assert names(folder) == ["model.a", "model.json", "model.so", "sub"]
    assert (tmp_path / "model.a").exists() and (folder / "sub" / "model.a").exists()


def test_the_other_form_leaves_no_archive_and_no_header(tmp_path):
    write_artefact(tmp_path, "c")
    assert names(tmp_path) == ["model.a", "model.h", "model.json", "model.so"]
    write_artefact(tmp_path, "vm")
    assert names(tmp_path) == ["model.json", "model.so"]
    assert runtime.load(tmp_path).manifest.form == "vm"


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
