"""benchmarks.cuda: what it does with a card, on stand-ins for one; and its counts without one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import common
from benchmarks.cuda import __main__ as command
from benchmarks.cuda import card, counts, engines, report
from benchmarks.engines import Unavailable
from tests.cuda_emulator.harness import require_nvcc
from tvm_insta.codegen.nvcc_compile import KernelResources
from tvm_insta.cuda_emulator import LaunchCounts, Unit
from tvm_insta.errors import ArtefactError
from tvm_insta.runtime.trace import TraceEntry

SETTINGS = card.Settings(("resnet18", "resnet20"), (1, 32), "insta", "sm_90")


class Clock:
    """Seconds that pass when somebody works."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def machine(monkeypatch, clock):
    """A machine with a card, each of whose engines takes 40 seconds; what was asked of it."""
    asked = []

    def worker(arguments, *, threads, cores, python, timeout):
        task = json.loads(arguments[-1])
        asked.append((task["engine"], task["model"], task["batch"]))
        assert 0 < timeout <= 150
        clock.now += 40
        if task["engine"] == "TensorRT fp16":
            return {"reason": "there is no torch_tensorrt", "ms": []}
        if task["engine"] == "PyTorch eager fp16":
            raise common.WorkerError("failed: CUDA out of memory")
        return {"reason": "", "ms": [1.0, 2.0, 3.0]}

    monkeypatch.setattr(card.common, "run_worker", worker)
    monkeypatch.setattr(card, "compile_network", lambda *_, **__: Path("artefact"))
    monkeypatch.setattr(card, "_validated", lambda m, *_: card.Validation(m, True, "valid"))
    return asked


def test_everything_is_measured_in_the_order_of_its_worth(machine, clock):
    found = card.measure_all(SETTINGS, Path(), card.Budget(10_000, clock))
    pairs = itertools.product(SETTINGS.models, SETTINGS.batches, engines.ENGINES)
    assert machine == [(engine, model, batch) for model, batch, engine in pairs]
    by_engine = {(m.model, m.batch, m.engine): m for m in found.measurements}
    ours = by_engine["resnet18", 32, "tvm_insta, graph"]
    assert (ours.median, ours.runs, ours.images_per_second) == (2.0, 3, 16_000)
    assert by_engine["resnet18", 1, "TensorRT fp16"].reason == "there is no torch_tensorrt"
    assert "out of memory" in by_engine["resnet18", 1, "PyTorch eager fp16"].reason


def test_what_does_not_fit_the_time_is_listed(machine, clock):
    found = card.measure_all(SETTINGS, Path(), card.Budget(3 * 40 + 20, clock))
    assert len(machine) == 4  # the fourth began with 20 seconds left
    assert len(found.measurements) == 2 * 2 * len(engines.ENGINES)
    assert {m.reason for m in found.measurements[4:]} == {"not measured: the time was over"}


def test_a_network_that_does_not_compile_leaves_the_others(machine, clock, monkeypatch):
    def refuse(model, *_, **__):
        if model == "resnet20":
            raise common.WorkerError("no nvcc was found")
        return Path("artefact")

    monkeypatch.setattr(card, "compile_network", refuse)
    found = card.measure_all(SETTINGS, Path(), card.Budget(10_000, clock))
    assert [each.model for each in found.validations] == ["resnet18"]
    mine = [m for m in found.measurements if m.model == "resnet20"]
    assert {m.reason for m in mine if m.engine.startswith("tvm_insta")} == {"no nvcc was found"}
    assert any(m.median for m in mine)  # PyTorch's


@pytest.mark.parametrize(("left", "slice_"), [(1000, 150), (100, 100), (15, 15), (14.9, 0), (0, 0)])
def test_slices_of_the_budget(left, slice_, clock):
    budget = card.Budget(left + 50, clock)
    clock.now += 50
    assert budget.slice() == pytest.approx(slice_)


@pytest.mark.parametrize("valid", [True, False])
def test_the_command_with_a_card(valid, machine, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "_card", lambda: ("A card", "sm_90"))
    check = card.Validation("resnet20", valid, "said")
    monkeypatch.setattr(card, "_validated", lambda *_: check)
    out = tmp_path / "found.json"
    argv = ["--models", "resnet20", "--batches", "1", "--json", str(out)]
    assert command.main(argv) == int(not valid)
    text = capsys.readouterr().out
    assert ("NOT VALID" in text) == (not valid)
    assert "| tvm_insta, graph | 2.000 | 1.200 to 2.800 | 500 |" in text
    found = json.loads(out.read_text("utf-8"))
    assert found["machine"]["card"] == "A card" and found["modelled"] is False
    assert len(found["measurements"]) == len(engines.ENGINES)


def test_a_process_that_validates(monkeypatch, clock, tmp_path):
    """An artefact that is none is not valid, with the command's own sentence."""
    found = card._validated("resnet20", tmp_path, card.Budget(600, clock))
    assert not found.valid and "model.json" in found.said


def test_engines_of_a_machine_without_a_card(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, engine in engines.ENGINES.items():
        if not engine.ours:
            with pytest.raises(Unavailable, match="finds no card"):
                engine.start(engines.Task(name, "resnet20", 1, ""))


def test_single_runs_are_timed(clock):
    def run():
        clock.now += 0.3

    found = engines.milliseconds(run, clock)
    assert len(found) == 10 and found == pytest.approx([300.0] * 10)


def launch(kernel, blocks=1):
    units = dict.fromkeys(Unit, 10)
    return LaunchCounts(kernel, (blocks, 1, 1), (64, 1, 1), 0, units, 1, 1, 4, 4, 8, 256)


def entry(index, symbol, read, written):
    tensors = [tuple(np.zeros(n, np.float32) for n in sizes) for sizes in (read, written)]
    return TraceEntry(index, symbol, *tensors)


def test_rows_of_kernels():
    """A call may launch two kernels, and a kernel may be called twice."""
    entries = [entry(0, "a", [4, 8], [2]), entry(1, "b", [16], [1, 1]), entry(2, "a", [4], [2])]
    names = ["a_kernel", "b_kernel", "b_kernel_1", "a_kernel"]
    found = [launch(name, blocks) for blocks, name in enumerate(names, 1)]
    resources = [KernelResources(name, "sm_90", 20, 0, 0, 0) for name in set(names)]
    made = counts.rows(
        entries,
        [counts.Call(("l",), ("x",)), *[counts.Call((), ())] * 2],
        found,
        resources,
        "sm_90",
    )
    assert [row.launches for row in made] == [1, 2, 1]
    assert (made[0].layers, made[0].operators) == (("l",), ("x",))
    assert [row.blocks for row in made] == [1, 2, 4]  # of b, the first that takes longest
    assert [(row.bytes_read, row.bytes_written) for row in made] == [(48, 8), (64, 8), (16, 8)]
    assert all(max(row.shares.values()) == 1 for row in made)
    with pytest.raises(common.WorkerError, match="c_kernel is of no call"):
        counts.rows(
            entries, [counts.Call((), ())] * 3, [*found, launch("c_kernel")], resources, "sm_90"
        )
    text = report.counts_text(counts.NetworkCounts("net", "sm_90", "H100 SXM", tuple(made)))
    assert "4 launches" in text and "no times" in text
    assert not re.search(r"\d\s*(ms|us|s|microseconds)\b", text)


@pytest.mark.cuda
@pytest.mark.slow
def test_the_command_without_a_card(tmp_path, capsys):
    require_nvcc()
    out = tmp_path / "found.json"
    assert command.main(["--counts", "--models", "resnet20", "--json", str(out)]) == 0
    (network,) = json.loads(out.read_text("utf-8"))["networks"]
    launches = sum(kernel["launches"] for kernel in network["kernels"])
    assert f"{launches} launches" in capsys.readouterr().out
    names = {field.name for field in dataclasses.fields(counts.KernelCounts)}
    assert all(set(kernel) == names and kernel["registers"] for kernel in network["kernels"])


def test_no_card_is_said(monkeypatch, capsys):
    def refuse(_):
        raise ArtefactError("this machine has no CUDA driver")

    monkeypatch.setattr(command.cuda_driver, "name", refuse)
    assert command._card() is None
    assert "counted, not measured: this machine" in capsys.readouterr().err


def test_bad_arguments(capsys, tmp_path):
    assert command.main(["--batches", "0"]) == 2
    assert "--batches 0, but it must be at least 1" in capsys.readouterr().err
    assert command.main(["--json", str(tmp_path / "gone" / "a.json")]) == 2
