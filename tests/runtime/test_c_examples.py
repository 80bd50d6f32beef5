"""The C example programs: the logits of Python bit for bit, and errors for bad arguments."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import artefact_nets as nets
from tvm_insta import runtime

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"
MAX_BATCH = 8  # of the networks in artefact_nets
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wcast-align=strict", "-Werror"]


def ffi_config(option):
    command = [sys.executable, "-m", "tvm_ffi.config", option]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def programs(built, tmp_path_factory) -> dict[str, list]:
    """The command that runs each form, but for the batch file."""
    nets.needs_tools("gcc")
    folder = tmp_path_factory.mktemp("programs")
    c, vm = built["c"], built["vm"]
    tvm = Path(importlib.util.find_spec("tvm").submodule_search_locations[0]) / "lib"
    ffi = ffi_config("--libdir")
    plain = ["gcc", *STRICT, "-I", c, EXAMPLES / "plain_c.c"]
    subprocess.run([*plain, c / "model.a", "-lm", "-pthread", "-o", folder / "static"], check=True)
    rpath = f"-Wl,-rpath,{c}"
    subprocess.run([*plain, c / "model.so", rpath, "-pthread", "-o", folder / "shared"], check=True)
    includes = [
        "-isystem",
        ffi_config("--includedir"),
        "-isystem",
        ffi_config("--dlpack-includedir"),
    ]
    libraries = ["-L", tvm, "-L", ffi, "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi"]
    rpaths = [f"-Wl,-rpath,{tvm}", f"-Wl,-rpath,{ffi}"]
    source = EXAMPLES / "vm.c"
    size = f"-DMAX_BATCH={MAX_BATCH}"
    command = ["gcc", *STRICT, size, *includes, source, *libraries, *rpaths, "-o", folder / "vm"]
    subprocess.run(command, check=True)
    return {
        "static": [folder / "static"],
        "shared": [folder / "shared"],
        "vm": [folder / "vm", vm / "model.so"],
    }


def run(program, *arguments):
    return subprocess.run([*program, *arguments], check=False, capture_output=True, text=True)


@pytest.mark.parametrize("program", ["static", "shared", "vm"])
def test_same_bits_as_python(programs, built, tmp_path, program):
    x = nets.images(2 * MAX_BATCH + 3)  # three calls of the VM
    x.tofile(tmp_path / "batch.f32")
    shape = ["8x8x16"] if program == "vm" else []
    done = run(programs[program], tmp_path / "batch.f32", *shape)
    assert (done.returncode, done.stderr) == (0, "")
    for threads in ("1", "2", "3"):
        again = run(programs[program], tmp_path / "batch.f32", *shape, threads)
        assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr
    for threads in ("0", "-1", "two", "2x", "257", ""):
        refused = run(programs[program], tmp_path / "batch.f32", *shape, threads)
        assert refused.returncode == 1 and "no number of threads" in refused.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    logits = np.array([line[5:] for line in lines], np.float32)
    module = runtime.load(built["vm" if program == "vm" else "c"])
    assert module.manifest.max_batch == MAX_BATCH
    parts = [x[at : at + MAX_BATCH] for at in range(0, len(x), MAX_BATCH)]
    expected = np.concatenate([module(part) for part in parts])
    assert logits.tobytes() == expected.tobytes()
    assert [line[:2] for line in lines] == [["image", str(i)] for i in range(len(x))]
    assert [int(line[3]) for line in lines] == expected.argmax(1).tolist()


@pytest.mark.parametrize("program", ["static", "vm"])
def test_bad_batch_files(programs, tmp_path, program):
    shape = ["8x8x16"] if program == "vm" else []
    nets.images(1).tofile(tmp_path / "good.f32")
    data = (tmp_path / "good.f32").read_bytes()
    (tmp_path / "cut.f32").write_bytes(data[:-1])
    (tmp_path / "empty.f32").write_bytes(b"")
    for name, message in (
        ("cut.f32", "no whole number of images"),
        ("empty.f32", "no whole number of images"),
        ("gone.f32", "No such file"),
        (".", "Is a directory"),
    ):
        done = run(programs[program], tmp_path / name, *shape)
        assert done.returncode == 1 and done.stdout == "" and message in done.stderr, name
    assert "usage" in run(programs[program]).stderr
    full = Path("/dev/full")
    if full.exists():
        with full.open("w") as out:
            command = [*programs[program], tmp_path / "good.f32", *shape]
            done = subprocess.run(
                command, check=False, stdout=out, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode == 1 and "No space left" in done.stderr


def test_vm_program_reports_errors_of_the_vm(programs, built, tmp_path):
    vm = programs["vm"]
    nets.images(1).tofile(tmp_path / "batch.f32")
    batch = tmp_path / "batch.f32"
    for arguments, message in (
        ([batch, "8x16x8"], "mismatch"),
        ([batch, "1024"], "main:"),
        ([batch, "8x"], "no shape"),
        ([batch, "0x8"], "no shape"),
        ([batch, "8x8x-16"], "no shape"),
        ([batch, "x".join(["2"] * 9)], "no shape"),
    ):
        done = run(vm, *arguments)
        assert done.returncode == 1 and message in done.stderr, (arguments, done.stderr)
    program = [vm[0]]
    done = run(program, built["c"] / "model.so", batch, "8x8x16")
    assert done.returncode == 1 and "is it of the vm form?" in done.stderr
    done = run(program, tmp_path / "gone.so", batch, "8x8x16")
    assert done.returncode == 1 and "gone.so" in done.stderr
