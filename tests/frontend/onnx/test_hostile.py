"""Hostile files: each is refused in one sentence, in little time and memory, without a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frontend.onnx import hostile, networks
from tvm_insta import compile as compile_command
from tvm_insta.errors import ImportModelError, InstaError
from tvm_insta.frontend.onnx import load, onnx_module, settle

ROOT = Path(__file__).parents[3]
MUTATIONS = int(os.environ.get("TVM_INSTA_MUTATIONS", "300"))
SECONDS, MEGABYTES = 10.0, 2000
"""Of the processor, with one thread, so that a busy machine fails no test; and of the process."""

# One process reads them all and tells of each; memory is the largest of them together, without what
# making the files takes.
READ_ALL = """
import json, sys, time
from pathlib import Path
from tvm_insta.errors import InstaError
from tvm_insta.compiler.onnx_model import network
for folder in sorted(Path(sys.argv[1]).iterdir()):
    started = time.process_time()
    try:
        network(folder / "model.onnx")
        message = ""
    except InstaError as error:
        message = str(error)
    seconds = time.process_time() - started
    status = Path("/proc/self/status").read_text()  # ru_maxrss counts the parent before exec
    memory = int(status.split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps([message, seconds, memory]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    files = tmp_path_factory.mktemp("hostile")
    names = []
    for name, data in [*hostile.all_hostile(), *hostile.all_long()]:
        folder = files / f"{len(names):04d}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(data)
        names.append(name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(files)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]  # neither a signal nor another exception
    assert not done.stderr.strip(), done.stderr[-2000:]  # no library prints of its own
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(name, *each) for name, each in zip(names, found, strict=True)]


def test_every_file_is_refused_in_one_sentence(answers):
    long = [name for name, _ in hostile.all_long()]
    for name, message, _, _ in answers:
        if name in long:
            assert not message, (name, message)
            continue
        assert message, f"{name} was accepted"
        assert "\n" not in message and 10 < len(message) < 700, (name, message)


def test_refusing_takes_little(answers):
    for name, _, seconds, memory in answers:
        assert seconds < SECONDS, (name, seconds)
        assert memory < MEGABYTES, (name, memory)


@pytest.mark.parametrize("name", ["cycle", "truncated 50", "100000 nodes"])
def test_the_command_line_says_it(name, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    path.write_bytes(dict(hostile.all_hostile())[name])
    assert compile_command.main([str(path), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def good():
    return [make()[0].SerializeToString() for make in networks.NETWORKS.values()]


@pytest.mark.parametrize("change", [hostile.mutated, hostile.altered], ids=["bytes", "fields"])
def test_mutated_files(good, change):
    """Bytes of a file changed, and fields of a parsed model: refused in a sentence, or taken.

    TVM_INSTA_MUTATIONS sets how many are tried of each kind.
    """
    refused = 0
    for seed in range(MUTATIONS):
        data = change(good[seed % len(good)], seed)
        try:
            settle(onnx_module(load(data)))
        except InstaError as error:
            refused += 1
            assert "\n" not in str(error), (seed, str(error))
        except Exception as error:
            raise AssertionError(f"seed {seed} of {change.__name__}") from error
    assert MUTATIONS / 4 < refused < MUTATIONS  # the changes go deep, and not all of them hurt


def test_good_files_are_taken(good):
    """Of the test itself: before they are changed they are accepted."""
    for data in good:
        assert settle(onnx_module(load(data))).dynamic


def test_no_file(tmp_path):
    with pytest.raises(ImportModelError, match="no file"):
        load(tmp_path / "nothing.onnx")
    with pytest.raises(ImportModelError, match="no file"):
        load(tmp_path)
