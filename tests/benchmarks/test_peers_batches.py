"""Batches in the peers benchmark: plan, engines, table, pictures, files without batches."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import common, engines, peers, peers_runs, worker
from benchmarks.engines import Unavailable, run_larq, run_openvino, run_ours
from benchmarks.results import Result, markdown, ratio
from tests.benchmarks.test_peers import OURS_C, OURS_VM, PEER, RECORD, RESULTS, row
from tvm_insta.runtime import arrays

BATCHES = [
    *RESULTS,
    Result(OURS_C, "resnet18", 1, 16.0, 15.0, 17.0, batch=8),
    Result(PEER, "resnet18", 1, 20.0, 19.0, 21.0, batch=8),
    Result(OURS_C, "resnet18", 2, 10.0, 9.0, 11.0, batch=8),
    Result(PEER, "resnet18", 2, reason="it broke", batch=8),
    Result(PEER, "resnet18", 1, 64.0, 60.0, 70.0, batch=32),
]


def tables(text):
    """The tables by the first cell of their heads."""
    parts = [part.splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    return {part[0].strip("|").split("|")[0].strip(): "\n".join(part) for part in parts}


def test_batches_have_tables_of_their_own_with_images_per_second():
    found = tables(markdown(BATCHES, RECORD))
    assert list(found) == [
        *("resnet18, 224x224", "resnet18, 224x224, batch 8", "resnet18, 224x224, batch 32")
    ]
    eight = found["resnet18, 224x224, batch 8"]
    assert row(eight, OURS_C) == [OURS_C, "500.0 (16.00, 1.00x)", "800.0 (10.00, 1.00x)"]
    assert row(eight, PEER) == [PEER, "400.0 (20.00, 1.25x)", "-"]
    assert OURS_VM not in eight, "not asked for"
    assert row(found["resnet18, 224x224, batch 32"], PEER) == [PEER, "500.0 (64.00)"]


def test_ratios_are_to_ours_of_the_same_batch():
    assert ratio(Result(PEER, "resnet18", 1, 20.0, batch=8), BATCHES) == 20.0 / 16.0
    assert ratio(Result(PEER, "resnet18", 1, 20.0), BATCHES) == 20.0 / 2.0
    assert ratio(Result(PEER, "resnet18", 1, 20.0, batch=32), BATCHES) is None


def test_batches_leave_the_table_of_one_image_as_it_is():
    alone, beside = markdown(RESULTS, RECORD), markdown(BATCHES, RECORD)
    assert "batch 8" not in alone and "images per second" not in alone
    assert beside.startswith(alone.split("\n- ")[0])
    only = markdown([result for result in BATCHES if result.batch > 1], RECORD)
    assert only.startswith("Batches, images per second") and "One image" not in only


def test_where_a_batch_did_not_run_is_named():
    lines = markdown(BATCHES, RECORD).splitlines()
    assert f"- {PEER}: not measured (resnet18, batch 8, on 2 threads): it broke" in lines
    assert f"- {PEER}: not measured (resnet18 on 2 threads): openvino is not installed" in lines


@pytest.mark.parametrize("name", ["peers", "peers_zen4"])
def test_files_of_the_time_before_batches_give_the_table_beside_them(name, tmp_path):
    docs = Path(__file__).parents[2] / "docs"
    entries = json.loads((docs / f"{name}.json").read_text(encoding="utf-8"))["results"]
    assert all(Result(**entry).batch == 1 for entry in entries)
    table = tmp_path / "table.md"
    options = ["--from-json", docs / f"{name}.json", "--markdown", table]
    assert peers.main([str(option) for option in options]) == 0
    assert table.read_text(encoding="utf-8") == (docs / f"{name}.md").read_text(encoding="utf-8")


def test_pictures_are_of_one_image(tmp_path, capsys, monkeypatch):
    mpl = pytest.importorskip("matplotlib", reason="plots need matplotlib (the extra bench)")
    mpl.use("Agg")
    from matplotlib.axes import Axes

    from benchmarks import plot

    widths = []
    real = Axes.barh

    def barh(self, names, values, **options):
        widths.append(sorted(values))
        return real(self, names, values, **options)

    monkeypatch.setattr(Axes, "barh", barh)
    plot.draw(BATCHES, "A processor", tmp_path / "all.png")
    assert widths == [[2.0, 4.0, 5.0], [3.0]]  # on one thread, on two
    plot.summary(BATCHES, tmp_path / "summary.png")
    assert widths[2:] == [[2.0, 5.0]]
    larger = tmp_path / "larger.json"
    results = [vars(result) for result in BATCHES if result.batch > 1]
    larger.write_text(json.dumps({**RECORD, "results": results}), encoding="utf-8")
    for option in ("--plot", "--summary"):
        assert peers.main(["--from-json", str(larger), option, str(tmp_path / "no.png")]) == 2
        assert "one image" in capsys.readouterr().err.replace("single", "one")
    assert not (tmp_path / "no.png").exists()


def test_each_batch_is_prepared_once_and_measured_beside_the_threads(monkeypatch, tmp_path):
    asked = []

    def fake(arguments, *, threads, **_):
        task = json.loads(arguments[-1])
        asked.append((task["do"], task["mode"], task["batch"], threads, task["folder"]))
        return {"reason": "", "ms": [float(task["batch"] * threads)]}

    monkeypatch.setattr(common, "run_worker", fake)
    monkeypatch.setattr(common, "choose_cores", lambda asked, threads: tuple(range(threads)))
    words = ["--models", "resnet20", "--only", "OpenVINO int8", "--rounds", "1"]
    words += ["--batches", "1", "8", "8", "--threads", "1", "2"]
    chosen = peers.make_plan(peers.parser().parse_args(words))
    results, _ = peers_runs.measure_all(chosen, tmp_path)
    modes = {1: ["int8", "int8 f32"], 8: ["int8", "int8 throughput", "int8 f32"]}
    prepared = [(batch, mode) for do, mode, batch, *_ in asked if do == "prepare"]
    assert prepared == [(batch, mode) for batch in (1, 8) for mode in modes[batch]]
    timed = [(batch, threads, mode) for do, mode, batch, threads, _ in asked if do == "time"]
    assert timed == [(b, t, mode) for b in (1, 8) for t in (1, 2) for mode in modes[b]]
    places = {(mode, batch): folder for do, mode, batch, _, folder in asked if do == "prepare"}
    assert len(set(places.values())) == len(places)
    assert all(places[mode, batch] == folder for _, mode, batch, _, folder in asked)
    assert {(r.batch, r.threads): r.median for r in results} == {
        **{(1, 1): 1.0, (1, 2): 2.0, (8, 1): 8.0, (8, 2): 16.0}
    }


def test_the_worker_hands_the_batch_to_the_engine(monkeypatch, tmp_path):
    asked = []

    def prepare(*_, batch):
        asked.append(("prepare", batch))

    def start(*_, batch):
        asked.append(("start", batch))
        return (lambda: None), "noted"

    engine = SimpleNamespace(prepare=prepare, start=start)
    monkeypatch.setattr(worker, "import_module", lambda _: engine)
    task = {
        **{"family": "torch", "mode": "", "model": "resnet20", "folder": str(tmp_path)},
        **{"batch": 8, "threads": 1, "options": [], "repeat": 2, "warmup": 0.0},
    }
    assert worker.work({**task, "do": "prepare"})["reason"] == ""
    assert len(worker.work({**task, "do": "time"})["ms"]) == 2
    assert asked == [("prepare", 8), ("start", 8)]


@pytest.mark.parametrize(
    ("batch", "words", "most"), [(1, [], None), (8, [], 8), (8, ["max_batch=16"], 16)]
)
def test_ours_is_compiled_for_the_batch(batch, words, most, monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(run_ours, "build", lambda *args, **_: given.append(args))
    run_ours.prepare("c", "resnet20", tmp_path, words, batch=batch)
    ((model, folder, options),) = given
    assert (model, folder, options["runtime"]) == ("resnet20", tmp_path, "c")
    assert options.get("max_batch") == most, "a single image takes the default"


def test_ours_refuses_a_batch_that_its_options_exclude(monkeypatch, tmp_path):
    monkeypatch.setattr(run_ours, "build", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(Unavailable, match="max_batch=2, it takes no batch of 8"):
        run_ours.prepare("vm", "resnet20", tmp_path, ["max_batch=2"], batch=8)


class FakeModule(SimpleNamespace):
    """As much of a loaded artefact as an engine of ours touches; keeps what it is given."""

    def __call__(self, x):
        self.given.append(x)
        return x


@pytest.mark.parametrize("mode", common.FORMS)
@pytest.mark.parametrize("batch", [1, 8])
def test_ours_runs_the_batch_and_notes_how(mode, batch, monkeypatch, tmp_path):
    import tvm_insta

    info = SimpleNamespace(shape=("n", 3, 8, 8), dtype="float32")
    module = FakeModule(manifest=SimpleNamespace(inputs=[info], needs=["avx2"]), given=[])
    monkeypatch.setattr(tvm_insta, "load", lambda *_, **__: module)
    run, note = run_ours.start(mode, "resnet18", tmp_path, 2, [], batch=batch)
    run()
    assert [x.shape for x in module.given] == [(batch, 3, 8, 8)]
    assert ("image after image" in note) == (mode == "c" and batch > 1)


class FakeRequest:
    """Like OpenVINO's own, it reads its input when it runs and does not keep it."""

    def __init__(self, ran):
        self.ran = ran

    def set_input_tensor(self, tensor):
        self.tensor = weakref.ref(tensor)

    def infer(self):
        tensor = self.tensor()
        assert tensor is not None, "the input's memory is free"
        self.ran.append(tensor.array.copy())

    def start_async(self):
        self.infer()

    def wait(self):
        pass

    def get_output_tensor(self):
        return SimpleNamespace(data=self.ran[-1])


class FakeTensor:
    def __init__(self, array, *, shared_memory):
        assert shared_memory
        self.array = array


@pytest.mark.parametrize(
    ("mode", "hint", "shapes"),
    [
        ("int8", "LATENCY", [(3, 3, 32, 32)]),
        ("int8 throughput", "THROUGHPUT", [(1, 3, 32, 32)] * 3),
    ],
)
def test_openvino_gets_the_batch_and_its_memory_stays(mode, hint, shapes, monkeypatch, tmp_path):
    ran, configs = [], []
    properties = {"NUM_STREAMS": 2}
    precision = SimpleNamespace(get_type_name=lambda: "bf16")
    compiled = SimpleNamespace(
        create_infer_request=lambda: FakeRequest(ran),
        get_property=lambda name: properties.get(name, precision),
    )

    def compile_model(path, device, config):
        configs.append(config)
        return compiled

    core = SimpleNamespace(compile_model=compile_model)
    fake = SimpleNamespace(Core=lambda: core, Tensor=FakeTensor)
    monkeypatch.setitem(sys.modules, "openvino", fake)
    run, note = run_openvino.start(mode, "resnet20", tmp_path, 2, [], batch=3)
    gc.collect()
    run()
    assert [x.shape for x in ran] == shapes
    assert np.concatenate(ran).tobytes() == engines.image("resnet20", batch=3).tobytes()
    assert configs == [{"INFERENCE_NUM_THREADS": 2, "PERFORMANCE_HINT": hint}]
    assert ("3 requests, 2 streams" in note) == (hint == "THROUGHPUT")


def test_larq_notes_that_it_runs_image_after_image(monkeypatch, tmp_path):
    module = "larq_compute_engine.tflite.python.interpreter"
    given = []
    fake = SimpleNamespace(predict=given.append)
    interpreter = SimpleNamespace(Interpreter=lambda *_, **__: fake)
    for name in (module.rsplit(".", n)[0] for n in range(1, 4)):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, module, interpreter)
    (tmp_path / "model.tflite").write_bytes(b"")
    run, note = run_larq.start("default", "resnet18", tmp_path, 1, [], batch=3)
    run()
    assert given[0].shape == (3, 224, 224, 3) and note == "Bi-RealNet-18, image after image"


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_the_images_of_a_batch_differ_and_begin_with_the_single_one(layout):
    batch = engines.image("resnet20", batch=3, layout=layout)
    assert len(np.unique(batch, axis=0)) == len(batch) == 3
    assert batch[:1].tobytes() == engines.image("resnet20", layout=layout).tobytes()
    assert arrays.to_aligned(batch) is batch
    assert [x.shape for x in engines.calibration("resnet20", batch=3)] == [(3, 3, 32, 32)] * 4
