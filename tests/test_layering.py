"""The rooms know only the rooms below them, and loading an artefact needs no compiler."""

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
TARGETS = {"_guard", "llvm_info", "target", "target_checks", "target_text", "triples"}
BASE = {"_near", "errors"}  # any room may use these
LEAVES = {*BASE, "options", "image_presets", "autotune_logs"}
BETWEEN = {"toolchain", *TARGETS}  # above runtime, which lists CPU features, and below the rooms
COMMANDS = {
    "__init__",
    "__main__",
    "bench",
    "choose",
    "cli",
    "compile",
    "compiler",
    "describe",
    "export",
    "forms",
    "logs",
    "model_inputs",
    "onnx_model",
    "option_checks",
    "run",
    "self_check",
    "tune",
    "tuner",
}

# What the files of a room may import, in function bodies too. A room that is missing here fails
# test_every_room_is_listed: a new one has to say where it stands.
KNOWS = {
    "runtime": {"tvm", "tvm_ffi", "image_presets", "cuda_emulator"},  # eager: see EAGER
    "cuda_emulator": set(),  # PTX and a C++ compiler
    "nn": {"torch", "image_presets"},
    "train": {"torch", "nn"},
    "zoo": {"torch", "nn"},
    "ops": {"tvm", "tvm_ffi"},
    "schedules": {"tvm", "tvm_ffi"},  # PrimFuncs and TVM's targets, nothing of ours
    "frontend": {"torch", "tvm", "ops"},  # what it imports into: our operators
    "passes": {"tvm", "tvm_ffi", "ops", "frontend", "schedules", *TARGETS},
    "codegen": {"tvm", "tvm_ffi", "runtime", "cuda_emulator", *BETWEEN},
    "validate": {"torch", "tvm", "ops", "frontend", "codegen", "runtime", *TARGETS},
    "tuning": {
        "tvm",
        "tvm_ffi",
        "ops",
        "schedules",
        "codegen",
        "runtime",
        "autotune_logs",
        *BETWEEN,
    },
    "report": {"runtime", "validate", "tuning"},
    **{module: {"tvm", "runtime", "options", *BETWEEN} for module in BETWEEN},
    **{module: set() for module in LEAVES},
}
# What they may import when they are loaded, where that is less: a board has no compiler, and a
# target can be refused before TVM has taken its seconds to load.
EAGER = {room: KNOWS[room] - FOREIGN for room in ("runtime", *BETWEEN)}


@dataclass(frozen=True)
class Import:
    """One imported name: ``room`` is a module or folder of ours, or the top name of another."""

    file: Path
    line: int
    room: str
    lazy: bool  # in a function body or for types only: not executed when the file is loaded

    def __str__(self):
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.room}"


def module_of(file: Path) -> list[str]:
    """The dotted name of a file, in parts; ``__init__`` is one."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return parts if parts[0] == "tvm_insta" else ["tvm_insta", *parts]


def room_of(file: Path) -> str:
    """The room of a file; the command line of a room stands above all rooms."""
    return "__main__" if file.name == "__main__.py" else module_of(file)[1]


FILES = [
    file
    for folder in ("tvm_insta", "schedules", "autotune_logs")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
ROOMS = {room: [f for f in FILES if room_of(f) == room] for room in map(room_of, FILES)}


def imports(file: Path, source: str | None = None) -> list[Import]:
    """Every import of a file, relative ones resolved."""
    found = []

    def add(line: int, name: str, lazy: bool) -> None:
        parts = name.split(".")
        room = parts[0]
        if room == "tvm_insta":  # what is no room is a name of the facade, as in tvm_insta.build
            room = parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"
        found.append(Import(file, line, room, lazy))

    def walk(parent: ast.AST, lazy: bool) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    add(node.lineno, alias.name, lazy)
            elif isinstance(node, ast.ImportFrom):
                base = module_of(file)[: -node.level] if node.level else []
                base += [node.module] if node.module else []
                for alias in node.names:
                    add(node.lineno, ".".join([*base, alias.name]), lazy)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                walk(ast.Module(node.body, []), True)
                walk(ast.Module(node.orelse, []), lazy)
            else:
                walk(node, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))

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
    seen = {(i.room, i.lazy) for i in imports(ROOT / "tvm_insta" / "ops" / "moments.py", source)}
    eager = {"torch", "codegen", "passes", "frontend", "__init__"}
    assert seen == {*((room, False) for room in eager), ("tvm", True), ("nn", True)}
    near = imports(ROOT / "schedules" / "x86.py", "from .common import Family")
    assert [i.room for i in near] == ["schedules"]


def test_every_room_is_listed():
    assert set(ROOMS) == set(KNOWS) | COMMANDS


@pytest.mark.parametrize("room", sorted(KNOWS))
def test_a_room_knows_only_what_is_below(room):
    common = BASE | {room}
    for found in [i for file in ROOMS[room] for i in imports(file)]:
        if found.room in FOREIGN or found.room in ROOMS:
            assert found.room in KNOWS[room] | common, str(found)
            eager = EAGER.get(room, KNOWS[room]) | common
            assert found.lazy or found.room in eager, f"{found} when it is loaded"


def test_no_cycles_between_rooms():
    """Imports in functions count: hiding one there does not undo the knowledge."""
    graph = {
        room: {i.room for file in files for i in imports(file)} & set(ROOMS) - {room, "__init__"}
        for room, files in ROOMS.items()
        if room != "__init__"  # the facade, through which all names pass; it loads nothing
    }
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the rooms of the cycle


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
    modules = [".".join(module_of(f)).removesuffix(".__init__") for f in ROOMS["runtime"]]
    assert "tvm_insta.runtime" in modules
    for names in (["tvm_insta"], ["tvm_insta.runtime"], modules):
        assert run(code, *names) == [""], names


@pytest.mark.parametrize(
    "command", ["bench", "compile", "export", "logs", "run", "train", "tune", "zoo"]
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
