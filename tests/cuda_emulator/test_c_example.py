"""The C program for CUDA, on the emulated device: no Python, no compiler, TVM's run time only."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tvm_insta
from tests.cuda_emulator.nets import images
from tvm_insta.cuda_emulator import EmulatorError
from tvm_insta.cuda_emulator import __main__ as command
from tvm_insta.cuda_emulator.folder import write_folder

pytestmark = [pytest.mark.cuda, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[2] / "examples" / "c"
STRICT = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Wcast-align=strict", "-Werror"]
MAX_BATCH = 4
SHAPE = "3x9x9"


def ffi_config(option):
    command = [sys.executable, "-m", "tvm_ffi.config", option]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("no gcc is installed: the C program cannot be compiled")
    out = tmp_path_factory.mktemp("program") / "cuda"
    tvm = Path(importlib.util.find_spec("tvm").submodule_search_locations[0]) / "lib"
    ffi = ffi_config("--libdir")
    includes = ["--includedir", "--dlpack-includedir"]
    command = ["gcc", *STRICT, f"-DMAX_BATCH={MAX_BATCH}", EXAMPLES / "cuda.c", "-o", out]
    command += [part for option in includes for part in ("-isystem", ffi_config(option))]
    command += ["-L", tvm, "-L", ffi, "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-ldl"]
    subprocess.run([*command, f"-Wl,-rpath,{tvm}", f"-Wl,-rpath,{ffi}"], check=True)
    return out


def run(program, libraries, *arguments):
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    command = [program, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def arguments(small, tmp_path_factory):
    """Of the program: the model, a file of more images than one call takes, their shape."""
    batch = tmp_path_factory.mktemp("batch") / "batch.raw"
    images(2 * MAX_BATCH + 1, 9).tofile(batch)
    return small[MAX_BATCH] / "cuda" / "model.so", batch, SHAPE


def test_the_bytes_of_the_cpu(program, arguments, small, tmp_path):
    argv = [str(small[MAX_BATCH] / "cuda"), "-o", str(tmp_path / "emulated")]
    assert command.main(argv) == 0
    done = run(program, tmp_path / "emulated", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found = [line.split() for line in done.stdout.splitlines()]
    x, cpu = images(2 * MAX_BATCH + 1, 9), tvm_insta.load(small[MAX_BATCH] / "cpu")
    want = np.concatenate([cpu(x[at : at + MAX_BATCH]) for at in range(0, len(x), MAX_BATCH)])
    assert np.array([line[5:] for line in found], np.float32).tobytes() == want.tobytes()
    assert [int(line[3]) for line in found] == want.argmax(1).tolist()


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (None, "the driver finds no card"),
        ("sm_80", 'newer cards than this one, an sm_80: compile it with --target "cuda -arch'),
    ],
)
def test_refusals_of_a_machine(arch, message, program, arguments, small, tmp_path):
    write_folder(arguments[0], tmp_path, arch)
    done = run(program, tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_refusals_of_what_is_missing(program, arguments, tmp_path):
    write_folder(arguments[0], tmp_path, "sm_90")
    for name, message in (
        ("?" * 16 + ".so", r"the emulated device says: .*\.so: cannot open"),  # the kernels
        ("libcudart.so.13", "CUDA's run time cannot be opened.*install version 13"),
        ("libcuda.so.1", "this machine has no CUDA driver"),
    ):
        for file in tmp_path.glob(name):
            # Empty, and not gone: a machine may have CUDA's own libraries elsewhere.
            file.unlink() if name.startswith("?") else file.write_bytes(b"")
        done = run(program, tmp_path, *arguments)
        assert done.returncode == 1 and re.search(message, done.stderr), done.stderr


def test_bad_arguments(program, arguments, tmp_path):
    model, batch, shape = arguments
    write_folder(model, tmp_path, "sm_90")
    for bad, message in (
        ((model, batch), "usage"),
        ((model, batch, "9x"), "no shape"),
        ((model, tmp_path / "gone", shape), "No such file"),
        ((tmp_path / "gone.so", batch, shape), "gone.so"),
        ((model, batch, "9x9x3"), "mismatch"),
    ):
        done = run(program, tmp_path, *bad)
        assert done.returncode == 1 and message in done.stderr, (bad, done.stderr)


def test_the_command_refuses(small, tmp_path, capsys):
    cpu = small[MAX_BATCH] / "cpu"
    assert command.main([str(cpu), "-o", str(tmp_path)]) == 2
    assert "is for a CPU: give an artefact for CUDA" in capsys.readouterr().err
    argv = [str(small[MAX_BATCH] / "cuda"), "-o", str(tmp_path), "--arch", "sm_12"]
    assert command.main(argv) == 2
    assert "the emulator knows sm_75" in capsys.readouterr().err
    with pytest.raises(EmulatorError, match="no device code"):
        write_folder(cpu / "model.so", tmp_path, "sm_90")
