from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import artefact_nets


@pytest.fixture(scope="session")
def c_folder(tmp_path_factory) -> Path:
    return artefact_nets.write_artefact(tmp_path_factory.mktemp("c") / "net", "c")


@pytest.fixture(scope="session")
def vm_folder(tmp_path_factory) -> Path:
    return artefact_nets.write_artefact(tmp_path_factory.mktemp("vm") / "net", "vm")
