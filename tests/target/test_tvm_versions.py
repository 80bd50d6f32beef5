"""The version guard, and the canary for the pins it enforces."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tvm_insta.target import tvm_versions


def _pretend(monkeypatch, tvm, ffi):
    versions = {"apache-tvm": tvm, "apache-tvm-ffi": ffi}

    def version(package):
        if versions[package] is None:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(tvm_versions.metadata, "version", version)


@pytest.mark.parametrize(
    ("tvm", "ffi"),
    [
        ("0.27.0.post1", "0.1.14.post0"),
        ("0.27.0.post1", "0.1.14.post1"),
        ("0.27.0.post1", "0.1.14.post12"),
        ("0.27.0.post1+cu130", "0.1.14.post1+local"),
    ],
)
def test_fitting_versions_pass(monkeypatch, tvm, ffi):
    _pretend(monkeypatch, tvm, ffi)
    tvm_versions.check_versions()


@pytest.mark.parametrize(
    ("tvm", "ffi", "found"),
    [
        (None, None, "no apache-tvm with no apache-tvm-ffi"),
        ("0.26.0", "0.1.14.post1", "apache-tvm 0.26.0 with"),
        ("0.27.0", "0.1.14.post1", "apache-tvm 0.27.0 with"),
        ("0.27.0.post1", "0.1.15.post2", "apache-tvm-ffi 0.1.15.post2"),
        ("0.27.0.post1", "0.1.15", "apache-tvm-ffi 0.1.15:"),
        ("0.27.0.post1", "0.1.15rc1", "apache-tvm-ffi 0.1.15rc1"),
        ("0.27.0.post1", "0.1.14", "apache-tvm-ffi 0.1.14:"),
        ("0.27.0.post1", "0.1.14rc1", "apache-tvm-ffi 0.1.14rc1"),
        ("0.27.0.post1", "0.1.9.post3", "apache-tvm-ffi 0.1.9.post3"),
        ("0.27.0.post1", "1.0", "apache-tvm-ffi 1.0"),
        ("0.27.0.post1", None, "no apache-tvm-ffi"),
        ("0.27.0.post1", "unknown", "apache-tvm-ffi unknown"),
    ],
)
def test_other_versions_are_refused_in_one_sentence(monkeypatch, tvm, ffi, found):
    _pretend(monkeypatch, tvm, ffi)
    with pytest.raises(ImportError) as error:
        tvm_versions.check_versions()
    text = str(error.value)
    assert text.startswith("tvm_insta needs apache-tvm==0.27.0.post1 with apache-tvm-ffi>=0.1.14")
    assert found in text
    assert "run pip install 'apache-tvm==0.27.0.post1'" in text
    assert "\n" not in text


def test_the_guard_speaks_before_tvm_is_imported(monkeypatch):
    """A wrong version must not first crash in TVM's own import."""
    program = (
        "import sys\n"
        "from importlib import metadata\n"
        "metadata.version = lambda package: '9.9'\n"
        "from tvm_insta.target import llvm_info\n"
        "try:\n"
        "    llvm_info.cpus('x86_64-linux-gnu')\n"
        "except ImportError as error:\n"
        "    print('tvm' in sys.modules, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("False tvm_insta needs apache-tvm==0.27.0.post1")


def test_pins_are_those_of_the_package():
    """pyproject.toml and the guard must not drift apart."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"apache-tvm=={tvm_versions.TVM_VERSION}"' in text
    assert f'"apache-tvm-ffi>={tvm_versions.FFI_FIRST},<{tvm_versions.FFI_BEFORE}"' in text


def test_canary_tvm_ir_survives_a_json_round_trip():
    """apache-tvm-ffi 0.1.15 crashes here: once it passes with a newer one, lift the pins.

    In a process of its own, because the failure is a segmentation fault.
    """
    program = (
        "import tvm\n"
        "from tvm import te\n"
        "x = te.placeholder((4,), 'float32', name='x')\n"
        "y = te.compute((4,), lambda i: x[i] + 1.0, name='y')\n"
        "mod = tvm.IRModule({'main': te.create_prim_func([x, y])})\n"
        "back = tvm.ir.load_json(tvm.ir.save_json(mod))\n"
        "tvm.ir.assert_structural_equal(mod, back)\n"
        "print('equal')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "equal"), done.stderr[-500:]
