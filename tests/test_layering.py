"""The rooms know only the rooms below them, and loading an artefact needs no compiler."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALL = {"codegen", "frontend", "nn", "ops", "passes", "schedules", "validate", "compiler", "report"}

FORBIDDEN = {
    "tvm_insta/runtime": ALL | {"torch", "target", "toolchain"},
    "tvm_insta/nn": (ALL | {"tvm", "runtime"}) - {"nn"},
    "tvm_insta/ops": ALL - {"ops"},
    "schedules": ALL | {"torch", "runtime"},
    "tvm_insta/frontend": ALL - {"frontend"},
    "tvm_insta/passes": {"codegen", "nn", "validate", "compiler", "report", "runtime", "torch"},
    "tvm_insta/codegen": {"passes", "frontend", "nn", "validate", "compiler", "report", "torch"},
    "tvm_insta/validate": {"passes", "nn"},
}


def imports(file):
    """Top names of what a file imports: "torch", or the room for a module of ours."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield parts[1] if parts[0] == "tvm_insta" and len(parts) > 1 else parts[0]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_room_knows_no_room_above(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        wrong = set(imports(file)) & FORBIDDEN[room]
        if file.name == "__main__.py":
            continue  # a command line stands above its room
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    "module", ["tvm_insta", "tvm_insta.runtime", "tvm_insta.runtime.preprocess"]
)
def test_loading_needs_no_compiler(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'tvm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
