"""Files that a user names: whole, or as they were."""

from __future__ import annotations

import os
import resource
import threading
from contextlib import contextmanager

import pytest

from tvm_insta import bench, explain
from tvm_insta.errors import InputError
from tvm_insta.files import write_output


@contextmanager
def no_file_longer_than(size):
    """Writing more fails half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk_leaves_what_was_there(old, tmp_path):
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)
    with (
        no_file_longer_than(10_000),
        pytest.raises(InputError, match=r"cannot write .*x \(File too large\); name another file"),
    ):
        write_output(path, bytes(20_000))
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == (
        {} if old is None else {"x": old}
    )


def test_places_that_are_no_plain_file(tmp_path):
    with pytest.raises(InputError, match=r"\(Is a directory\)"):
        write_output(tmp_path, b"x")
    with pytest.raises(InputError, match=r"\(No such file or directory\)"):
        write_output(tmp_path / "none" / "x", b"x")
    with pytest.raises(InputError, match=r"full \(No space left on device\)"):
        write_output(type(tmp_path)("/dev/full"), b"x")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write_output(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_output(tmp_path / "pipe", b"through")
    reader.join(10)
    assert found == [b"through"]


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_explain_writes_whole_files(option, built, tmp_path, capsys):
    path = tmp_path / "x"
    path.write_text("old")
    with no_file_longer_than(100):
        code = explain.main([str(built["c"]), option, str(path)])
    assert code == 2 and "cannot write" in capsys.readouterr().err
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_bench_names_the_file(built, capsys):
    assert bench.main([str(built["c"]), "--repeat", "1", "--json", "/dev/full"]) == 2
    assert "cannot write /dev/full (No space left on device)" in capsys.readouterr().err
