"""`python -m tvm_insta.tune`: a sweep from the command line, and how Ctrl-C ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tuning import tiny
from tvm_insta import tune
from tvm_insta.tuning import lookup
from tvm_insta.tuning.log import RECORDS, TuningLog

ROOT = Path(__file__).parents[2]
NETWORK = """
import torch
from tvm_insta import nn

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1), nn.InstaThreshold(32), nn.BinaryConv2d(32, 32, 3)
    )
"""


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    return [
        *("--factory", f"{tmp_path / 'net.py'}:network", "--input-shape", "3,8,8"),
        *("--log-dir", str(tmp_path / "logs"), "--report", str(tmp_path / "report")),
        *("--search", "random"),
    ]


def test_a_sweep_prints_its_table_and_writes_its_report(arguments, tmp_path, capsys):
    assert tune.main([*arguments, "--trials", "6", "--layer", "2"]) == 0
    printed = capsys.readouterr()
    assert "these layers together" in printed.out and "after/before" in printed.out
    assert "defaults" in printed.err and "final comparison" in printed.err
    assert (tmp_path / "report" / "report.html").exists()
    records = TuningLog(tiny.folder(tmp_path / "logs")).records
    assert sum(not record.final for record in records) == 6


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(arguments, tmp_path):
    command = [sys.executable, "-m", "tvm_insta.tune", *arguments, "--minutes", "5"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    path = tiny.folder(tmp_path / "logs") / RECORDS
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= 4:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error.decode()
    last = error.decode().splitlines()[-1]
    assert "interrupted; the trials so far are in" in last and "--resume" in last
    assert "Traceback" not in error.decode()
    log = TuningLog(path.parent)
    assert len(log.records) >= 4 and log.messages == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--trials", "0"], "got trials 0, but it must be more than 0"),
        (["--target", "rpi4"], "this machine cannot run code for 'rpi4'"),
        (["--layer", "nothing*"], "it matches no layer with parameters to tune: 0, 2"),
        (["--target", "native", "--threads", "4096"], "got 4096 threads"),
    ],
)
def test_errors_are_one_sentence(arguments, capsys, wrong, said):
    assert tune.main([*arguments, *wrong]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_packaged_logs_are_found_by_default():
    """Whatever is committed there is sound, and for the schedules as they are."""
    from tvm_insta.tuning import curate

    assert (lookup.packaged() / "__init__.py").exists()
    for folder in sorted(path.parent for path in lookup.packaged().glob("*/meta.json")):
        assert list(curate.check(folder)) == []
