"""Packages know only the packages below them, and loading an artefact needs no compiler."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOREIGN = {"torch", "tvm", "tvm_ffi"}

# What the files of a package may import, in function bodies too. The order is that of the way of a
# model, from what knows least to what knows most; a package that is missing here fails
# test_every_package_is_listed: a new one has to say where it stands.
KNOWS: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "autotune_logs": set(),
    "cuda_emulator": set(),  # PTX and a C++ compiler
    "runtime": {"tvm", "tvm_ffi", "cuda_emulator"},  # TVM's in functions only, see EAGER
    "target": {"tvm", "runtime"},  # runtime lists what a CPU can do
    "cpu_emulator": {"runtime", "target"},
    "nn": {"torch", "runtime"},
    "train": {"torch", "nn", "runtime"},  # images become pixels in one way
    "zoo": {"torch", "nn"},
    "ops": {"tvm", "tvm_ffi"},
    "schedules": {"tvm", "tvm_ffi"},  # PrimFuncs and TVM's targets, nothing of ours
    "frontend": {"torch", "tvm", "ops"},  # what it imports into: our operators
    "passes": {"tvm", "tvm_ffi", "ops", "frontend", "schedules", "target"},
    "codegen": {"tvm", "tvm_ffi", "runtime", "cuda_emulator", "target", "schedules"},
    "validate": {"torch", "tvm", "ops", "frontend", "codegen", "runtime", "target"},
    "tuning": {
        "tvm",
        "tvm_ffi",
        "cuda_emulator",
        "ops",
        "schedules",
        "codegen",
        "runtime",
        "cpu_emulator",
        "autotune_logs",
        "target",
    },
    "report": {"runtime", "validate", "tuning"},
    "compiler": {
        "torch",
        "tvm",
        "runtime",
        "cpu_emulator",
        "target",
        "nn",
        "zoo",
        "schedules",
        "frontend",
        "passes",
        "codegen",
        "validate",
        "tuning",
        "report",
    },
}
EVERYTHING = {*KNOWS, *FOREIGN, "__init__", "cli"}
# The command line, and the verbs, each for one thing; no package knows them.
for verb in (
    "__init__",
    "__main__",
    "bench",
    "compile",
    "explain",
    "export",
    "logs",
    "run",
    "tune",
    "cli",
):
    KNOWS[verb] = EVERYTHING
KNOWS["benchmarks"] = {*EVERYTHING, "bench", "compile"}
# What they may import when they are loaded, where that is less: a board has no compiler, and a
# target can be refused before TVM has taken its seconds to load.
EAGER = {package: KNOWS[package] - FOREIGN for package in ("runtime", "target")}


@dataclass(frozen=True)
class Import:
    """One imported name: ``package`` is a package or verb of ours, or the top name of another."""

    file: Path
    line: int
    package: str
    name: str  # as it is spelt, relative ones resolved
    lazy: bool  # in a function body or for types only: not executed when the file is loaded
    typing: bool  # for types only

    def module(self, files: dict[str, Path]) -> str | None:
        """The module of ours that is imported, None where it is none."""
        name = self.name
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name or None

    def __str__(self):
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.package}"


def module_of(file: Path) -> list[str]:
    """The dotted name of a file, in parts; ``__init__`` is one."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return parts if parts[0] in ("tvm_insta", "benchmarks") else ["tvm_insta", *parts]


def package_of(file: Path) -> str:
    """The package of a file; the command line of a package stands above all of ours."""
    parts = module_of(file)
    if file.name == "__main__.py" and parts[0] == "tvm_insta":
        return "__main__"
    return parts[1] if parts[0] == "tvm_insta" else parts[0]


FILES = [
    file
    for folder in ("tvm_insta", "schedules", "autotune_logs", "benchmarks")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
PACKAGES = {
    package: [f for f in FILES if package_of(f) == package] for package in map(package_of, FILES)
}


def imports(file: Path, source: str | None = None) -> list[Import]:
    """Every import of a file, relative ones resolved."""
    found = []

    def add(line: int, name: str, lazy: bool, typing: bool) -> None:
        parts = name.split(".")
        package = parts[0]
        if (
            package == "tvm_insta"
        ):  # what is no package is a name of the facade, as in tvm_insta.build
            package = parts[1] if len(parts) > 1 and parts[1] in PACKAGES else "__init__"
        found.append(Import(file, line, package, name, lazy, typing))

    def walk(parent: ast.AST, lazy: bool, typing: bool = False) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    add(node.lineno, alias.name, lazy, typing)
            elif isinstance(node, ast.ImportFrom):
                base = module_of(file)[: -node.level] if node.level else []
                base += [node.module] if node.module else []
                for alias in node.names:
                    add(node.lineno, ".".join([*base, alias.name]), lazy, typing)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                walk(ast.Module(node.body, []), True, True)
                walk(ast.Module(node.orelse, []), lazy, typing)
            else:
                function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                walk(node, lazy or function, typing)

    walk(ast.parse(source or file.read_text(encoding="utf-8")), False)
    return found


def test_every_spelling_of_an_import_is_seen():
    """Of the walk itself: a rule that overlooks a spelling would hold for any code."""
    source = """
import torch, tvm_insta.codegen
from ..passes import lower
from tvm_insta import frontend, build
if TYPE_CHECKING:
    import tvm
def later():
    from tvm_insta.nn.conv import BinaryConv2d
"""
    seen = {(i.package, i.lazy) for i in imports(ROOT / "tvm_insta" / "ops" / "moments.py", source)}
    eager = {"torch", "codegen", "passes", "frontend", "__init__"}
    assert seen == {*((package, False) for package in eager), ("tvm", True), ("nn", True)}
    near = imports(ROOT / "schedules" / "driver.py", "from .base import Family")
    assert [i.package for i in near] == ["schedules"]


def test_every_package_is_listed():
    assert set(PACKAGES) == set(KNOWS)


@pytest.mark.parametrize("package", sorted(KNOWS))
def test_a_package_knows_only_what_is_below(package):
    common = {"errors", "files", package}
    for found in [i for file in PACKAGES[package] for i in imports(file)]:
        if found.package in FOREIGN or found.package in PACKAGES:
            assert found.package in KNOWS[package] | common, str(found)
            eager = EAGER.get(package, KNOWS[package]) | common
            assert found.lazy or found.package in eager, f"{found} when it is loaded"


def test_no_cycles_between_packages():
    """Imports in functions count: hiding one there does not undo the knowledge."""
    graph = {
        package: {i.package for file in files for i in imports(file)}
        & set(PACKAGES) - {package, "__init__"}
        for package, files in PACKAGES.items()
        if package != "__init__"  # the facade, through which all names pass; it loads nothing
    }
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the packages of the cycle


def test_no_cycles_between_modules():
    """Imports in functions count here, too; those for types alone do not."""
    files = {".".join(module_of(file)).removesuffix(".__init__"): file for file in FILES}
    graph = {
        name: {found.module(files) for found in imports(file) if not found.typing}
        - {name, None, "tvm_insta"}
        for name, file in files.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def run(code: str, *arguments: str) -> list[str]:
    """Lines that a fresh interpreter prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return done.stdout.splitlines()


LOADED = f"*sorted({FOREIGN!r} & set(sys.modules))"


def test_loading_needs_no_compiler():
    """Neither the package nor any module of the runtime loads torch or tvm."""
    code = "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module(n)\n"
    code += f"print({LOADED})"
    modules = [".".join(module_of(f)).removesuffix(".__init__") for f in PACKAGES["runtime"]]
    assert "tvm_insta.runtime" in modules
    for names in (["tvm_insta"], ["tvm_insta.runtime"], modules):
        assert run(code, *names) == [""], names


@pytest.mark.parametrize(
    "command", ["bench", "compile", "explain", "export", "logs", "run", "train", "tune", "zoo"]
)
def test_command_lines_read_their_arguments_first(command):
    """PyTorch and TVM take seconds to load: --help and a wrong argument are answered before."""
    code = f"""
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module("tvm_insta.{command}", run_name="__main__")
except SystemExit as stop:
    print(stop.code, {LOADED})
"""
    assert run(code)[-1] == "0"
