"""Files that are there completely, or as they were before, whoever writes them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from tvm_insta import nn
from tvm_insta.errors import ArtefactError, LogError, ModelError
from tvm_insta.files import replacing, write_atomically
from tvm_insta.runtime import manifest as manifests
from tvm_insta.tuning import lines


def checkpoint(suffix):
    def write(folder):
        nn.save_checkpoint(torch.nn.Linear(2, 1), folder / f"net{suffix}")

    return write


def manifest(folder):
    manifests.write(folder, Entries())


class Entries:
    """As little as `manifests.write` takes."""


WRITERS = {
    "checkpoint": (checkpoint(".safetensors"), ModelError),
    "torch file": (checkpoint(".pt"), ModelError),
    "manifest": (manifest, ArtefactError),
    "table": (lambda folder: lines.replace(folder / "table", "content"), LogError),
    "state": (lambda folder: write_atomically(folder / "state", b"content"), OSError),
}


@pytest.fixture
def plain_manifest(monkeypatch):
    monkeypatch.setattr(manifests.dataclasses, "asdict", lambda _: {"name": "model"})


@pytest.mark.usefixtures("plain_manifest")
@pytest.mark.parametrize("name", WRITERS)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, name):
    write, error = WRITERS[name]
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 1
    for failure in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        raised = error if isinstance(failure, OSError) else KeyboardInterrupt

        def fail(_, failure=failure):
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(raised):
                write(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("plain_manifest")
@pytest.mark.parametrize("mask", [0o022, 0o077])
@pytest.mark.parametrize("name", WRITERS)
def test_who_may_read_a_file_says_the_umask(tmp_path, name, mask):
    before = os.umask(mask)
    try:
        WRITERS[name][0](tmp_path)
    finally:
        os.umask(before)
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_readers_see_the_old_content_until_the_end(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [Path(each).name for each in tmp_path.iterdir()] == ["x"]


def test_a_name_as_long_as_a_name_may_be(tmp_path):
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"
