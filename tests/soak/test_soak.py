"""Many calls, loads, threads and processes in both forms; see soak.py.

TVM_INSTA_SOAK=1 does it at length: 10,000 calls, 500 loads.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import artefact_nets as nets
from tests.support import thread_nets

SHORT = {"calls": 300, "loads": 40, "reloads": 30, "threads": 15, "forks": 4, "pools": 6}
LONG = {"calls": 10_000, "loads": 500, "reloads": 200, "threads": 500, "forks": 50, "pools": 100}
AT_LENGTH = os.environ.get("TVM_INSTA_SOAK") == "1"
SECONDS = 3600 if AT_LENGTH else 300


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    make = thread_nets.many_loops(1001, 5)
    root = tmp_path_factory.mktemp("soak")
    return {form: nets.write_artefact(root / form, form, make=make) for form in ("c", "vm")}


def soak(folder, what, count):
    program = Path(__file__).with_name("soak.py")
    command = [sys.executable, program, folder, what, str(count)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("form", ["c", "vm"])
@pytest.mark.parametrize("what", SHORT)
def test_soak(artefacts, form, what, capsys):
    said = soak(artefacts[form], what, (LONG if AT_LENGTH else SHORT)[what])
    with capsys.disabled():
        print(f"\n{what}, {form}: {said.splitlines()[0]}")


@pytest.mark.parametrize("form", ["c", "vm"])
def test_pytorchs_data_loader(artefacts, form):
    pytest.importorskip("torch")
    soak(artefacts[form], "loader", 10 if AT_LENGTH else 1)
