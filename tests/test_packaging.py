"""The wheel holds what runs, and the project speaks of nobody's machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PACKAGED = ("tvm_insta", "schedules", "autotune_logs")


def project_files() -> list[Path]:
    """Every file of the project, relative to its root: tracked, or new and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout: what belongs to the project cannot be told")
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "-co", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return sorted(Path(name) for name in set(listed) if name and (ROOT / name).is_file())


def packaged_as(path: Path) -> str:
    """Where the wheel has a file or folder of the checkout."""
    return path.as_posix() if path.parts[0] == "tvm_insta" else f"tvm_insta/{path.as_posix()}"


def table(name: str) -> str:
    """The text of one table of pyproject.toml; Python 3.10 has no tomllib."""
    found = re.search(rf"^\[{re.escape(name)}\]\n(.*?)(?=^\[|\Z)", PYPROJECT, re.DOTALL | re.M)
    assert found, f"pyproject.toml has no [{name}]"
    return found[1]


def test_every_folder_is_a_package():
    """setuptools finds packages by their __init__.py; one without it would be left out."""
    folders = {p.parent for p in project_files() if p.suffix == ".py" and p.parts[0] in PACKAGED}
    assert [
        str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()
    ] == []


@pytest.mark.parametrize(
    ("link", "folder"),
    [
        ("schedules", "schedules"),
        ("autotune_logs", "autotune_logs"),
        ("c_examples", "examples/c"),
    ],
)
def test_folders_at_the_top_are_linked_into_the_package(link, folder):
    assert (ROOT / "tvm_insta" / link).resolve() == ROOT / folder


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The files of a wheel, built without network from a copy of the working tree."""
    pytest.importorskip("setuptools", reason="setuptools is not installed: no wheel can be built")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for path in project_files():  # a copy, since setuptools leaves build/ behind
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    for link in (ROOT / "tvm_insta").iterdir():
        if link.is_symlink():
            (source / "tvm_insta" / link.name).symlink_to(link.readlink())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-deps"]
    done = subprocess.run(
        [*command, "--no-build-isolation", "-w", folder, source],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_has_every_file_of_the_package(names):
    wanted = {packaged_as(path) for path in project_files() if path.parts[0] in PACKAGED}
    assert wanted - set(names) == set()


@pytest.mark.parametrize(
    "pattern",
    [
        r"schedules/\w+/\w+\.py",
        r"autotune_logs/__init__\.py",
        r"autotune_logs/[\w-]+/meta\.json",
        r"autotune_logs/[\w-]+/database_tuning_record\.json\.xz",
        r"py\.typed",
        r"c_examples/plain_c\.c",
        r"c_examples/batch_file\.h",
        r"codegen/\w+\.c\.in",
        r"codegen/\w+\.h\.in",
        r"tuning/\w+\.c",
        r"zoo/\w+\.safetensors",
    ],
)
def test_the_wheel_has_what_no_import_would_miss(names, pattern):
    assert any(re.fullmatch(f"tvm_insta/{pattern}", name) for name in names)


def test_the_wheel_has_nothing_else(names):
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"tvm_insta"}
    folders = {folder for name in names for folder in name.split("/")[:-1]}
    assert folders.isdisjoint({"tests", "examples", "benchmarks", "docs"})


def test_readme_commands_are_what_ci_runs():
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README.md")
    commands = re.findall(r"^pip install .*$", readme.read_text(encoding="utf-8"), re.M)
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    script = re.search(r"python (\S+\.py)$", commands[0])
    assert script and (ROOT / script[1]).is_file()
    extras = set(re.findall(r"\.\[(\w+)\]", " ".join(commands)))
    assert extras <= set(re.findall(r"^(\w+) = \[", table("project.optional-dependencies"), re.M))


# Joined here, so that this file does not name them either.
NOWHERE = [
    "pypi." + "org",
    "files.python" + "hosted",
    "download.py" + "torch.org",
    "deb.debian." + "org",
    "/tmp/" + "venv",
    "/wo" + "rk/",
]


@pytest.mark.parametrize("word", NOWHERE)
def test_no_registry_host_and_no_local_path_is_named(word):
    files = project_files()
    assert files
    # As bytes, since pictures and weights carry text as well.
    assert [str(p) for p in files if word.encode() in (ROOT / p).read_bytes()] == []
