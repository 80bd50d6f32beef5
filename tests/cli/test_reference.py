"""docs/cli.md says what the parsers say."""

from __future__ import annotations

import re
from pathlib import Path

from tvm_insta import __main__ as command
from tvm_insta.cli.reference import VERBS, reference

ROOT = Path(__file__).parents[2]


def test_the_page_is_that_of_the_parsers():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m tvm_insta.cli.reference > docs/cli.md"


def test_every_verb_is_on_it():
    """A module at the top of the package, or a package with a __main__, is a verb."""
    package = ROOT / "tvm_insta"
    modules = {p.stem for p in package.glob("[a-z]*.py")} - {"errors", "files"}
    assert modules | {p.parent.name for p in package.glob("*/__main__.py")} == set(VERBS)
    assert set(command.VERBS) == set(VERBS)


def test_rows_are_rows():
    """Three cells each, whatever the parsers have between their brackets."""
    rows = [line for line in reference().splitlines() if line.startswith("|")]
    assert rows
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 4, row
        assert "('" not in row, row
