"""The peers benchmark: plan, rounds, ratios, reasons, table, plot. No test looks at a clock."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest

from benchmarks import common, engines, peers, peers_runs, worker
from benchmarks.engines import Engine, run_ours
from benchmarks.peers_runs import Job
from benchmarks.results import Result, markdown, ratio
from tvm_insta.errors import InputError
from tvm_insta.runtime import arrays

OURS_VM, OURS_C, PEER = "tvm_insta vm (binary)", "tvm_insta c (binary)", "OpenVINO int8"
RESULTS = [
    Result(OURS_VM, "resnet18", 1, 4.0, 3.9, 4.2),
    Result(OURS_C, "resnet18", 1, 2.0, 1.9, 2.1),
    Result(PEER, "resnet18", 1, 5.0, 4.9, 5.3),
    Result(OURS_VM, "resnet18", 2, 3.0, 2.9, 3.1),
    Result(OURS_C, "resnet18", 2, reason="the plain-C form runs on one thread"),
    Result(PEER, "resnet18", 2, reason="openvino is not installed"),
]
RECORD = {"cpu": "A processor"}


def row(table, engine):
    found = [line for line in table.splitlines() if line.startswith(f"| {engine} |")]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def plan(*words):
    return peers.make_plan(peers.parser().parse_args([*words, "--threads", "1"]))


@pytest.fixture
def recorded(tmp_path):
    """A file as --json writes it."""
    path = tmp_path / "recorded.json"
    results = [vars(result) for result in RESULTS]
    path.write_text(json.dumps({**RECORD, "results": results}), encoding="utf-8")
    return path


def test_ratios_are_to_the_best_of_ours_with_as_many_threads():
    table = markdown(RESULTS, RECORD)
    assert row(table, OURS_VM) == [OURS_VM, "4.00 (2.00x)", "3.00 (1.00x)"]
    assert row(table, OURS_C) == [OURS_C, "2.00 (1.00x)", "-"]
    assert row(table, PEER) == [PEER, "5.00 (2.50x)", "-"]
    assert ratio(Result(PEER, "mobilenet_v1", 1, 5.0), RESULTS) is None, "of another network"


def test_without_ours_there_is_no_ratio():
    table = markdown([Result(PEER, "resnet18", 1, 5.0, 4.9, 5.3)], RECORD)
    assert row(table, PEER) == [PEER, "5.00"]


def test_what_did_not_run_is_listed_once_with_its_reason():
    results = [*RESULTS, Result("X", "resnet18", 1, reason="no X"), Result("X", "resnet18", 2)]
    results[-1] = Result("X", "resnet18", 2, reason="no X")
    lines = markdown(results, RECORD).splitlines()
    assert lines.count("- X: not measured: no X") == 1
    one_thread = "the plain-C form runs on one thread"
    assert f"- {OURS_C}: not measured (resnet18 on 2 threads): {one_thread}" in lines


def test_the_head_tells_how_it_was_measured():
    record = {
        **{"cpu": "A processor", "cores": [0, 1], "rounds": 3, "repeat": 50},
        **{"date": "2030-01-02T03:04:05+00:00", "versions": {"torch": {"python": "3.11"}}},
    }
    table = markdown(RESULTS, record)
    assert "A processor, pinned to cores 0, 1, 3 rounds of 50 runs, 2030-01-02" in table
    assert "- versions, torch: python 3.11" in table.splitlines()


def test_the_median_is_of_all_runs_and_the_rounds_are_kept():
    found = Result(PEER, "resnet18", 1).with_times([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    assert found.median == 6.5  # of 1, 2, 3, 10, 20, 30
    assert found.rounds == (2.0, 20.0)
    assert (found.p10, found.p90) == (1.5, 25.0)  # between sorted values, at 0.5 and 4.5


def test_recorded_results_are_written_again(recorded, tmp_path, capsys):
    table, again = tmp_path / "table.md", tmp_path / "again.json"
    options = ["--from-json", recorded, "--markdown", table, "--json", again]
    assert peers.main([str(option) for option in options]) == 0
    assert table.read_text(encoding="utf-8") == capsys.readouterr().out
    assert json.loads(again.read_text(encoding="utf-8")) == json.loads(
        recorded.read_text(encoding="utf-8")
    )


def test_plot_from_recorded_results(recorded, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib (the extra bench)")
    from PIL import Image

    picture = tmp_path / "peers.png"
    assert peers.main(["--from-json", str(recorded), "--plot", str(picture)]) == 0
    with Image.open(picture) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0xC8, 0x10, 0x2E), (0x9A, 0xA5, 0xB1)} <= colours  # a bar of ours, a bar of a peer


def test_summary_has_eight_bars_at_most():
    pytest.importorskip("matplotlib", reason="plots need matplotlib (the extra bench)")
    from benchmarks import plot

    assert len(plot.SUMMARY) <= 8


def test_summary_of_the_recorded_peers(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need matplotlib (the extra bench)")
    recorded = Path(__file__).parents[2] / "docs" / "peers.json"
    picture = tmp_path / "latency.png"
    assert peers.main(["--from-json", str(recorded), "--summary", str(picture)]) == 0
    assert picture.stat().st_size > 5000


def test_summary_without_its_engines_is_refused(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="plots need matplotlib (the extra bench)")
    path = tmp_path / "other.json"
    result = {"engine": "mine", "model": "resnet18", "threads": 1, "median": 1.0}
    path.write_text(json.dumps({"cpu": "x", "results": [result]}), encoding="utf-8")
    picture = tmp_path / "latency.png"
    assert peers.main(["--from-json", str(path), "--summary", str(picture)]) == 2
    assert "no engine" in capsys.readouterr().err and not picture.exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"results": []}', '{"cpu": "x", "results": [{"speed": 1}]}']
)
def test_a_file_without_results_is_refused(text, tmp_path, capsys):
    path = tmp_path / "wrong.json"
    path.write_text(text, encoding="utf-8")
    assert peers.main(["--from-json", str(path)]) == 2
    said = capsys.readouterr().err
    assert "holds no results" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--from-json", "no/such.json"], "no/such.json"),
        (["--only", "Nonesuch"], PEER),
        (["--threads", "0"], "--threads 0"),
        (["--threads", "100000"], "100000 threads"),
        (["--rounds", "0"], "--rounds 0"),
        (["--batches", "8", "0"], "--batches 0"),
        (["--only", "throughput"], "batches of 2 or more"),
        (["--batches", "8", "32", "--plot", "a.png"], "pictures show batch 1"),
        (["--batches", "8", "--summary", "a.png"], "pictures show batch 1"),
        (["--summary", "no/such/folder/a.png"], "no/such/folder"),
        (["--cores", "100000"], "the cores 100000"),
        (["--json", "no/such/folder/a.json"], "no/such/folder"),
        (["--python", "nonesuch=python3"], "openvino"),
        (["--python", "larq=/no/such/python"], "/no/such/python is no program"),
        (["--compile-option", "speed=11"], "KEY among target"),
        (["--compile-option", "max_batch"], "KEY=VALUE"),
        (["--compile-option", "max_batch=few"], "type int"),
        (["--compile-option", "max_batch=0"], "at least 1"),
        (["--compile-option", "runtime=c"], "--forms"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(options, part, capsys):
    assert peers.main(["--threads", "1", *options]) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1


def test_compile_options_have_the_types_of_their_fields():
    words = ["target=avx2", "max-batch=8", "verify_stages=true", "dump_ir=none"]
    assert common.compile_options(words) == {
        **{"target": "avx2", "max_batch": 8, "verify_stages": True, "dump_ir": None}
    }


def test_any_field_can_be_set(monkeypatch):
    """Fields that are added later need no change here."""

    @dataclass
    class Later:
        stem: Literal["fp32", "bf16"] = "fp32"
        share: float | None = None
        fast: bool = False

    monkeypatch.setattr(common, "CompileOptions", Later)
    words = ["stem=bf16", "share=0.5", "fast=True"]
    assert common.compile_options(words) == {"stem": "bf16", "share": 0.5, "fast": True}
    assert common.compile_options(["share=None"]) == {"share": None}
    with pytest.raises(InputError, match="type bool"):
        common.compile_options(["fast=perhaps"])


def test_each_set_of_compile_options_adds_rows():
    words = ["--compile-option", "--compile-option", "target=avx2", "max_batch=2"]
    ours = [engine for engine in plan(*words).engines if engine.family == "ours"]
    assert [engine.name for engine in ours] == [
        *(OURS_C, OURS_VM),
        "tvm_insta c, target=avx2 max_batch=2 (binary)",
        "tvm_insta vm, target=avx2 max_batch=2 (binary)",
    ]
    assert ours[2].options == ("target=avx2", "max_batch=2")


def test_rounds_alternate_and_a_failure_is_not_tried_again(monkeypatch, tmp_path):
    asked = []

    def fake(arguments, *, python, cores, threads, **_):
        task = json.loads(arguments[-1])
        asked.append((task["do"], task["mode"], python))
        if task["do"] == "prepare":
            return {"reason": "not here" if task["mode"] == "bf16" else "", "versions": {"x": "1"}}
        if task["mode"] == "int8":
            raise common.WorkerError("failed: it broke")
        return {"reason": "", "note": "noted", "ms": [float(len(asked))] * 2}

    monkeypatch.setattr(common, "run_worker", fake)
    words = ["--only", "OpenVINO", "--models", "resnet20", "--rounds", "2"]
    results, versions = peers_runs.measure_all(plan(*words), tmp_path)
    timed = [mode for do, mode, _ in asked if do == "time"]
    assert timed == ["int8", "int8 f32", "default", "fp32", "fp32", "default", "int8 f32"]
    by_name = {result.engine: result for result in results}
    assert by_name["OpenVINO bf16"].reason == "not here"
    assert by_name["OpenVINO int8"].reason == "failed: it broke"
    assert by_name["OpenVINO int8"].median is None
    fp32 = by_name["OpenVINO fp32"]
    assert len(fp32.rounds) == 2 and fp32.median == np.mean(fp32.rounds) and fp32.note == "noted"
    assert versions == {"openvino": {"x": "1"}}


def test_each_family_has_its_interpreter(monkeypatch, tmp_path):
    asked = {}

    def fake(arguments, *, python, **_):
        asked[json.loads(arguments[-1])["family"]] = python
        return {"reason": "not here"}

    monkeypatch.setattr(common, "run_worker", fake)
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    words = ["--models", "resnet20", "--only", "larq", "litert", "--python", f"larq={link}"]
    peers_runs.measure_all(plan(*words), tmp_path)
    assert asked == {"larq": str(link), "litert": sys.executable}


def test_an_interpreter_without_the_engine_says_what_to_install(tmp_path):
    # An interpreter in which the import fails, whatever is installed beside the tests.
    engine = Engine("LiteRT int8", "litert", "int8")
    blocker = tmp_path / "python"
    hook = "import sys; sys.modules['litert_torch'] = None; "
    hook += "from benchmarks.worker import main; main(sys.argv[-1:])"
    blocker.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{hook}" "$@"\n', encoding="utf-8")
    blocker.chmod(0o755)
    chosen = plan("--python", f"litert={blocker}")
    answer = peers_runs.work(chosen, Job("resnet20", 1, engine), 1, do="prepare", folder=tmp_path)
    assert "litert_torch" in answer["reason"]
    assert "benchmarks/requirements-litert.txt" in answer["reason"]
    assert "--python litert=PATH" in answer["reason"]
    assert (common.ROOT / "benchmarks/requirements-litert.txt").is_file()


def test_every_family_names_a_file_of_requirements():
    for family in engines.FAMILIES:
        text = str(engines.missing(ImportError("No module named 'x'"), family))
        names = [word for word in text.split() if word.startswith("benchmarks/requirements-")]
        assert len(names) == 1 and (common.ROOT / names[0]).is_file()
    assert {engine.family for engine in engines.PEERS} <= set(engines.FAMILIES)


def test_a_worker_that_fails_tells_why():
    chosen = plan()
    job = Job("resnet20", 1, Engine("Nonesuch", "nonesuch", ""))
    answer = peers_runs.work(chosen, job, 1, do="time", folder=common.ROOT)
    assert answer["reason"].startswith("failed: ModuleNotFoundError: ")
    assert "run_nonesuch" in answer["reason"]


def test_the_exception_is_named_and_not_what_a_library_says_behind_it():
    said = "Traceback\n  File x\n    TypeError: expected a bool\n\nCall arguments:\n  - inputs=1\n"
    assert common._why(said) == "TypeError: expected a bool"
    assert common._why("killed\n") == "killed"
    assert common._why("") == "no output"


def test_a_worker_is_pinned_and_sees_no_thread_settings_of_the_shell(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    cores = common.choose_cores(None, 1)
    code = "import os; from benchmarks.common import answer; answer([os.environ.get('OPENBLAS_"
    code += "CORETYPE'), os.environ['OMP_NUM_THREADS'], sorted(os.sched_getaffinity(0))])"
    found = common.run_worker(
        ["-c", code], threads=1, cores=cores, python=sys.executable, timeout=60
    )
    assert found == [None, "1", list(cores)]


def test_a_worker_may_not_take_for_ever(tmp_path):
    """It is ended with what it started: the pipes of a program left behind would stay open."""
    note = tmp_path / "pid"
    code = "import pathlib, subprocess; p = subprocess.Popen(['sleep', '60']); "
    code += f"pathlib.Path({str(note)!r}).write_text(str(p.pid)); p.wait()"
    begin = time.monotonic()
    with pytest.raises(common.WorkerError, match="more than 2 s"):
        common.run_worker(["-c", code], threads=1, cores=(), python=sys.executable, timeout=2)
    assert time.monotonic() - begin < 50, "waited for the program that was left behind"
    state = Path(f"/proc/{note.read_text()}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().split()[2] == "Z", "still there"


def test_every_run_is_counted():
    calls = []
    times = worker.milliseconds(lambda: calls.append(1), 5, 0.0)
    assert len(times) == 5 and len(calls) == 5 + worker._LEAST_WARMUP
    assert all(ms >= 0 for ms in times)


def test_ours_is_loaded_with_as_many_threads_as_are_measured(monkeypatch, tmp_path):
    import tvm_insta

    given = []
    info = SimpleNamespace(shape=("n", 3, 8, 8), dtype="float32")
    module = SimpleNamespace(manifest=SimpleNamespace(inputs=[info], needs=["avx2"]))

    def load(path, *, threads):
        given.append((path, threads))
        return module

    monkeypatch.setattr(tvm_insta, "load", load)
    _, note = run_ours.start("c", "resnet18", tmp_path, 2, [])
    assert given == [(tmp_path, 2)] and note == "compiled for avx2"


@pytest.mark.slow
def test_ours_and_pytorch_run(tmp_path, capsys):
    record = tmp_path / "peers.json"
    words = "--models resnet20 --threads 1 --rounds 2 --repeat 3 --warmup 0 --forms c --only"
    options = [*words.split(), "tvm_insta", "eager", "larq", "--json", str(record)]
    assert peers.main([*options, "--compile-option", "max_batch=2"]) == 0
    written = json.loads(record.read_text(encoding="utf-8"))
    results = {entry["engine"]: Result(**entry) for entry in written["results"]}
    ours = results["tvm_insta c, max_batch=2 (binary)"]
    for result in (ours, results["PyTorch eager fp32"]):
        assert result.reason == "" and len(result.rounds) == 2
        assert 0 < result.p10 <= result.median <= result.p90
    assert ours.note.startswith("compiled for ")
    larq = results["Larq CE, default (binary)"]
    assert larq.median is None and "resnet20" in larq.reason
    assert {"apache-tvm", "tvm-insta", "python"} <= set(written["versions"]["ours"])
    assert {"cpu", "features", "system", "date", "cores", "rounds", "repeat"} <= set(written)
    assert "(1.00x)" in row(capsys.readouterr().out, ours.engine)[1]


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float32", ("n", 3, 32, 32)), ("uint8", (1, 8, 8, 3))]
)
def test_inputs_are_as_the_artefact_takes_them_and_need_no_copy(dtype, shape):
    info = SimpleNamespace(shape=shape, dtype=dtype)
    x = run_ours.sample(SimpleNamespace(manifest=SimpleNamespace(inputs=[info])))
    assert x.dtype == dtype and x.shape == (1, *shape[1:])
    assert arrays.to_aligned(x) is x
    assert len(np.unique(x)) > 100, "images differ from pixel to pixel"


def test_peers_get_the_same_image_in_their_layout():
    nchw, nhwc = engines.image("resnet20"), engines.image("resnet20", layout="NHWC")
    assert nchw.shape == (1, 3, 32, 32)
    assert nhwc.transpose(0, 3, 1, 2).tobytes() == nchw.tobytes()
    assert arrays.to_aligned(nhwc) is nhwc
