"""Names of kernels and rules are compared whole; `report.names` alone takes one apart.

A schedule rule, a kernel or an operator that is told by a part of its name is a contract that no
type and no test holds: a new kernel whose name begins in the same way joins in unseen.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_layering import FILES, ROOT

TAKES_APART = {
    "endswith",
    "lstrip",
    "removeprefix",
    "removesuffix",
    "rpartition",
    "rsplit",
    "rstrip",
    "startswith",
}
NAMES = re.compile(
    r"rule|kernel|symbol|name_hint|operators|name_of\(|\bfunction\b|record\.|row\.(rule|operators)"
)
"""Expressions that stand for the name of a kernel, of a rule, of a block or of a PrimFunc."""

PACKAGES = ("passes", "schedules", "tuning", "report", "compiler", "codegen", "benchmarks")
PARSER = ROOT / "tvm_insta" / "report" / "names.py"
CHECKED = [
    file
    for file in FILES
    if file != PARSER and set(file.relative_to(ROOT).parts[:2]) & set(PACKAGES)
]


def names_taken_apart(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and text of every call that looks at a part of such a name."""
    found = []
    loops = {
        target.id: ast.unparse(loop.iter)
        for loop in ast.walk(tree)
        if isinstance(loop, ast.comprehension | ast.For)
        for target in ast.walk(loop.target)
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            receiver = ast.unparse(node.func.value)
            whence = loops.get(receiver, "")
            if node.func.attr in TAKES_APART and (NAMES.search(receiver) or NAMES.search(whence)):
                found.append((node.lineno, ast.unparse(node)))
    return found


@pytest.mark.parametrize("file", CHECKED, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_name_is_taken_apart(file: Path):
    assert names_taken_apart(ast.parse(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        'task.rule.startswith("insta_bconv")',
        'variable.name_hint.rstrip("0123456789")',
        'name_of(schedule, pad).endswith("pad")',
        'any(name.startswith("insta.") for name in kernel.operators)',
        'kernel_name.rpartition("_")[0]',
    ],
)
def test_what_is_looked_for_is_seen(source):
    assert len(names_taken_apart(ast.parse(source))) == 1


def test_back_ends_are_asked_and_not_the_kind_of_a_target():
    """Whoever asks for the kind knows families that only `schedules` and `target` should know."""
    asked = []
    for file in FILES:
        parts = set(file.relative_to(ROOT).parts[:2])
        if not parts & {"schedules", "target"}:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare) and ast.unparse(node.left) == "target.kind":
                    asked.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert asked == []
