from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import artefact_nets


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> dict[str, Path]:
    """One artefact of each form; not to be changed."""
    root = tmp_path_factory.mktemp("built")
    return {form: artefact_nets.write_artefact(root / form, form) for form in ("c", "vm")}


@pytest.fixture
def copy(built, tmp_path):
    """A function that gives a copy of an artefact, to damage."""

    def make(form: str) -> Path:
        return Path(shutil.copytree(built[form], tmp_path / form))

    return make
