"""The local runner, with real kernels and real processes that crash, hang and are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest

from tests.tuning import tiny
from tvm_insta.errors import TuneError
from tvm_insta.target import parse
from tvm_insta.target.toolchain import find_linker
from tvm_insta.tuning import lookup
from tvm_insta.tuning.log import RECORDS, TRIALS, TuningLog
from tvm_insta.tuning.runner import LocalRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runner():
    local = LocalRunner(tiny.NATIVE, run_timeout=20.0)
    yield local
    local.close()


@pytest.fixture(scope="module")
def task():
    return tiny.tasks()[0]


def replaced(runner, monkeypatch, bad):
    """Let the runner find a C function in place of the kernel it built for some parameters."""
    real = runner.builder.build

    def build(task, candidates):
        built = real(task, candidates)
        for index, tiles in enumerate(candidates):
            if tiles in bad:
                source = runner.builder.folder / f"bad{uuid.uuid4().hex}.c"
                source.write_text(f"int __tvm_ffi_kernel(void) {{ {bad[tiles]} return 0; }}\n")
                find_linker(tiny.NATIVE).link_shared([source], source.with_suffix(".so"))
                built[index] = source.with_suffix(".so")
        return built

    monkeypatch.setattr(runner.builder, "build", build)


def test_every_choice_is_right_and_timed(runner, task):
    runner.prepare(task)
    chosen = task.choices[::4]
    found = dict(runner.measure(task, chosen, 3))
    assert set(found) == set(chosen)
    for outcome in found.values():
        assert not outcome.error
        # A kernel of 10000 multiply-adds takes between 10 ns and 10 ms on any machine.
        assert len(outcome.run_secs) == 3 and all(1e-8 < s < 1e-2 for s in outcome.run_secs)


def test_a_crash_a_hang_and_a_wrong_result_are_failures_of_their_own(runner, task, monkeypatch):
    """And the candidates behind them are measured as if nothing had happened."""
    crash, hang, wrong, good = task.choices[:4]
    bad = {crash: "*(volatile int *)0 = 0;", hang: "for (;;) {}", wrong: ""}
    replaced(runner, monkeypatch, bad)
    monkeypatch.setattr(runner, "_run_timeout", 3.0)
    runner.prepare(task)
    found = dict(runner.measure(task, [crash, hang, wrong, good], 3))
    assert "the worker died (SIGSEGV)" in found[crash].error
    assert "no answer within 3 s" in found[hang].error
    assert "wrong result" in found[wrong].error
    assert not found[good].error


def test_one_wrong_byte_is_a_wrong_result(runner, task):
    """Against the reference, not against a tolerance."""
    runner.prepare(task)
    path = runner.builder.folder / f"{task.key}-reference.json"
    text = path.read_text()
    outputs = json.loads(text)
    first = "1" if outputs[0][0] != "1" else "2"
    path.write_text(json.dumps([first + outputs[0][1:]]))
    try:
        ((_, outcome),) = runner.measure(task, [task.default], 1)
    finally:
        path.write_text(text)
    assert "wrong result: 1 of " in outcome.error


@pytest.mark.slow
def test_a_builder_that_dies_costs_one_candidate(task):
    """Killed from outside, as LLVM would be by its own abort or for want of memory."""
    local = LocalRunner(tiny.NATIVE)
    try:
        local.builder.build(task, [task.default])  # the builders have started
        workers = [w for w in local.builder._all if w._process is not None]
        for worker in workers:
            threading.Timer(0.0, worker._process.kill).start()
        time.sleep(0.5)
        built = local.builder.build(task, task.choices[:2])
        again = local.builder.build(task, task.choices[:2])
    finally:
        local.close()
    failed = [text for text in built if isinstance(text, str)]
    assert failed and all("the worker died (SIGKILL)" in text for text in failed)
    assert not any(isinstance(text, str) for text in again)


def test_parameters_that_the_schedule_does_not_take_are_a_failure(runner, task):
    from dataclasses import replace

    runner.prepare(task)
    ((_, outcome),) = runner.measure(task, [replace(task.default, width_tile=5)], 1)
    assert "did not take" in outcome.error and "do not divide 6 pixels" in outcome.error


def test_a_foreign_target_cannot_be_measured_here():
    with pytest.raises(TuneError, match=r"this machine cannot run code for .*riscv64"):
        LocalRunner(parse('{"kind":"llvm","mtriple":"riscv64-linux-gnu"}'))


def start(logs, *arguments, mark=""):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tuning.sweep_process", str(logs), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TVM_INSTA_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def marked(mark):
    """Processes, zombies excepted, with the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:  # gone, or not ours
            continue
    return found


def record_lines(logs):
    path = tiny.folder(logs) / RECORDS
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_kill_9_in_the_middle_then_resume(tmp_path):
    """Nothing measured is measured again, the database loads, and the compiler uses it."""
    mark = uuid.uuid4().hex
    first = start(tmp_path, 24, mark=mark)
    deadline = time.monotonic() + 120
    while record_lines(tmp_path) < 7 and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.02)
    assert first.poll() is None, first.communicate()[0].decode()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    there = record_lines(tmp_path)
    assert 7 <= there < 24
    while marked(mark) and time.monotonic() < deadline:  # workers die with their sweep
        time.sleep(0.1)
    assert marked(mark) == []

    second = start(tmp_path, 24, "--resume")
    output, _ = second.communicate(timeout=180)
    assert second.returncode == 0, output.decode()

    folder = tiny.folder(tmp_path)
    text = (folder / TRIALS).read_text(encoding="utf-8")
    trials = [json.loads(line) for line in text.splitlines()]
    counts = Counter((t["workload"], json.dumps(t["parameters"])) for t in trials if not t["final"])
    # The trial in flight may have been written to the one file and not to the other.
    assert sum(counts.values()) - len(counts) <= 1
    log = TuningLog(folder)
    recorded = Counter((r.key, str(r.parameters)) for r in log.records if not r.final)
    assert len(recorded) == 24 and max(recorded.values()) == 1

    from tvm.s_tir import meta_schedule as ms

    assert len(ms.database.JSONDatabase(work_dir=str(folder))) == len(log.records)
    found = lookup.look_up(tiny.network(), tiny.NATIVE, tmp_path)
    assert set(found.states.values()) == {lookup.TUNED} and len(found.states) == 2


@pytest.mark.slow
def test_the_artefact_says_tuned_and_computes_the_same(tmp_path):
    """A network, tuned and compiled: the same bytes as untuned, and the manifest tells."""
    import numpy as np
    import torch

    import tvm_insta
    from tvm_insta import nn
    from tvm_insta.compiler.tuner import TuneOptions, tune
    from tvm_insta.tuning.options import SweepOptions

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1), nn.InstaThreshold(32), nn.BinaryConv2d(32, 32, 3)
    ).eval()
    example = torch.zeros(1, 3, 8, 8)
    options = TuneOptions(
        "native", tmp_path / "logs", sweep=SweepOptions(trials=12, search="random")
    )
    tuned = tune(module, example, options, tiny.Silent(), say=lambda text: None)
    assert sorted(layer for s in tuned.states for layer in s.task.layers) == ["0", "2"]

    images = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    answers = {}
    for name, logs in (("tuned", tmp_path / "logs"), ("default", tmp_path / "none")):
        artefact = tvm_insta.build(module, example, "native", out_dir=tmp_path / name, log_dir=logs)
        answers[name] = artefact(images).tobytes()
        manifest = artefact.manifest
        calls = [call for layer in manifest.layers for call in manifest.kernels_of(layer)]
        states = {call.schedule.state for call in calls}
        assert states == {name}
    assert answers["tuned"] == answers["default"]
