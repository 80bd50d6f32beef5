"""Damaged and forged artefacts: the same bytes out, or one ArtefactError, and nothing else.

TVM_INSTA_FUZZ=10000 tries that many manifests in each form, and a tenth of it libraries.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import hostile
from tvm_insta import runtime
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime import manifest as manifests
from tvm_insta.runtime.manifest import Binarisation, Layer, Memory, Site

SEED = 18
MANIFESTS = int(os.environ.get("TVM_INSTA_FUZZ", "400"))
LIBRARIES = max(50, MANIFESTS // 10)
both = pytest.mark.parametrize("form", ["c", "vm"])


@pytest.fixture
def complete(copy):
    """A copy of an artefact whose manifest has every entry that there is."""

    def make(form: str) -> Path:
        folder = copy(form)
        manifest = manifests.read(folder / manifests.FILE_NAME)
        more = dataclasses.replace(
            manifest,
            layers=(Layer("conv", "conv2d", "float", ("batch", 8), 9, (3, 3), reason="first"),),
            binarisations=(
                Binarisation(
                    *(0, 16, 1, "ge", 1, (1, 1, 1, 1), "0000803f", (1,)),
                    site=Site("x", ("x",), "y", -1.0, 2.0, (0, 1)),
                ),
            ),
            memory=Memory(1, 2, manifest.kernels[0].symbol, 3, 4, 5),
            working_set=3,
            source={"model": "resnet20", "seed": 3},
            options={"runtime": form, "max_batch": 8},
        )
        manifests.write(folder, more)
        return folder

    return make


def tried(folder: Path, kind: str, count: int) -> collections.Counter:
    """How often each came of `count` mutants."""
    command = [sys.executable, hostile.__file__, folder, kind, str(SEED), "0", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    last = lines[-1] if lines else ""
    assert done.returncode == 0, f"seed {SEED}, {kind} {last}: {done.returncode}\n{done.stderr}"
    wrong = [line for line in lines if line.split(" ", 1)[1] not in (hostile.SAME, hostile.REFUSED)]
    assert not wrong, f"seed {SEED}, {kind}: {wrong[:5]}"
    assert len(lines) == count
    return collections.Counter(line.split(" ", 1)[1] for line in lines)


@both
def test_manifests(complete, form, capsys):
    found = tried(complete(form), "manifest", MANIFESTS)
    with capsys.disabled():
        print(f"\n{form}: {dict(found)}")
    assert min(found[hostile.SAME], found[hostile.REFUSED]) > MANIFESTS // 50


@both
def test_libraries(complete, form):
    found = tried(complete(form), "library", LIBRARIES)
    assert found[hostile.REFUSED] > LIBRARIES // 2


@both
@pytest.mark.parametrize("name", ["model.json", "model.so"])
def test_only_regular_files(copy, form, name, monkeypatch):
    """A FIFO would be waited for, a device never ends; a link to a regular file is one."""
    folder = copy(form)
    path = folder / name
    kept = path.rename(folder / "kept")

    def refused(why):
        with pytest.raises(ArtefactError, match=why) as caught:
            runtime.load(folder)
        assert str(path) in str(caught.value)
        path.rmdir() if path.is_dir() else path.unlink()

    os.mkfifo(path)
    refused("is no regular file")
    path.symlink_to("/dev/zero")
    refused("is no regular file")
    path.mkdir()
    refused("is no regular file")
    monkeypatch.chdir(folder)  # a socket's path may have 107 characters
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        refused("cannot read|no regular file")
    path.symlink_to(path)
    refused("cannot read")
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # no byte of it is on the disk
    refused("bytes")
    path.symlink_to(kept)
    runtime.load(folder)


@both
def test_what_was_hashed_is_what_is_loaded(copy, form, monkeypatch):
    """The file is exchanged, and overwritten in place, after its hash was taken."""
    folder = copy(form)
    library = folder / "model.so"
    expected = runtime.load(folder)(x := hostile.np.ones((1, 8, 8, 16), "float32"))
    good = library.read_bytes()
    from tvm_insta.runtime import library as libraries

    def exchanged(descriptor):
        library.write_bytes(b"\0" * len(good))
        return seal(descriptor)

    seal = libraries._seal
    monkeypatch.setattr(libraries, "_seal", exchanged)
    libraries._libraries.clear()
    module = runtime.load(folder)
    assert module(x).tobytes() == expected.tobytes()
    with pytest.raises(ArtefactError, match="SHA-256"):
        runtime.load(folder)
    assert module(x).tobytes() == expected.tobytes()


def test_older_schema(copy):
    folder = copy("c")
    path = folder / "model.json"
    path.write_text(path.read_text().replace("artefact/3", "artefact/1"))
    with pytest.raises(ArtefactError, match=r"artefact/1.*compile the model again"):
        runtime.load(folder)
