"""The wheel holds what runs, and the project speaks of nobody's machine."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    pytest.importorskip("setuptools", reason="setuptools is not installed: no wheel can be built")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "-w", folder, source], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl"))).namelist()


def test_the_wheel_is_complete(names):
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "tvm_insta", "schedules", "autotune_logs"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    for path in tracked:
        top = path.split("/")[0]
        packaged = path if top == "tvm_insta" else f"tvm_insta/{path}"
        assert packaged in names, packaged
    assert not [name for name in names if name.startswith(("tests", "examples", "benchmarks"))]


def test_readme_commands_are_what_ci_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^pip install .*$", readme, re.MULTILINE)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert (ROOT / "examples" / "quickstart.py").is_file() and "quickstart.py" in commands[0]


def test_no_registry_host_and_no_local_path_is_named():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    words = [
        "pypi." + "org",
        "files.python" + "hosted",
        "download.py" + "torch",
        "deb.debian" + ".",
    ]
    words += ["/tmp/" + "venv", "/wo" + "rk/"]
    for path in listed:
        if (ROOT / path).suffix in (".png", ".safetensors") or not (ROOT / path).is_file():
            continue
        text = (ROOT / path).read_text(encoding="utf-8", errors="replace")
        for word in words:
            assert word not in text, f"{path} names {word}"
