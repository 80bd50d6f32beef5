"""Popcounts or AMX tiles, layer by layer: by the cost model, and by what a sweep has measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tuning import tiny
from tvm_insta import build, nn
from tvm_insta.compiler import tuner
from tvm_insta.compiler.kernel_variants import measured_figures
from tvm_insta.errors import ArtefactError
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.runtime import amx
from tvm_insta.schedules import Measured, back_end
from tvm_insta.target import parse
from tvm_insta.tuning import worker
from tvm_insta.tuning.options import SweepOptions
from tvm_insta.tuning.runner import LocalRunner, Outcome

SERVER = parse("llvm -mcpu=sapphirerapids")
RULE = "insta_bconv_signs"


def network():
    """A stem, and binary layers of three shapes; the model takes tiles for the 3x3 ones only."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 64, 3, padding=1)]
    for outputs, kernel in ((64, 3), (64, 3), (64, 1), (32, 3)):
        layers += [nn.InstaThreshold(64), nn.BinaryConv2d(64, outputs, kernel, padding=kernel // 2)]
    return torch.nn.Sequential(*layers).eval()


EXAMPLE = torch.zeros(1, 3, 8, 8)


class Prices(tiny.RecordedRunner):
    """Costs by shape and form: tiles win the 1x1 layer and the last one, popcounts the others."""

    def measure(self, task, candidates, repeats):
        for tiles, outcome in super().measure(task, candidates, repeats):
            price = 1.0
            if task.rule.startswith("insta_bconv"):
                wins = task.layers[0] in ("6", "8")
                price = 1.0 if wins is task.tiles else 100.0  # more than any choice of tiles
            yield tiles, Outcome(tuple(price * s for s in outcome.run_secs), "table")


def swept(logs, runner, binary="auto", search="random", layer=None, weights="auto", **limits):
    sweep = SweepOptions(final_repeats=9, search=search, **limits)
    options = tuner.TuneOptions(SERVER.text, logs, binary=binary, layer=layer, sweep=sweep)
    says = []
    made = tuner.Network(network(), EXAMPLE, SERVER, amx_weights=weights)
    tuned = tuner.tune_network(made, runner, options, tiny.Silent(), say=says.append)
    return tuned, says


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    runner = Prices()
    tuned, says = swept(folder, runner, trials=60)
    return folder, runner, tuned, says


def forms(artefact):
    manifest = artefact.manifest
    layers = [layer for layer in manifest.layers if layer.kind == "binary"]
    schedules = {layer.name: manifest.kernels_of(layer)[0].schedule for layer in layers}
    return {
        layer.name: (schedules[layer.name].rule == RULE, *layer.notes, schedules[layer.name].state)
        for layer in layers
    }


def test_both_forms_are_tuned_and_the_faster_one_is_kept(logs):
    _, runner, tuned, says = logs
    assert "popcounts and in tiles" in says[0]
    assert {form.layers: form.figures.tiles < form.figures.popcount for form in tuned.forms} == {
        ("2", "4"): False,
        ("6",): True,
        ("8",): True,
    }
    by_layer = {layer: state.task.tiles for state in tuned.states for layer in state.task.layers}
    assert by_layer == {"0": False, "2": False, "4": False, "6": True, "8": True}
    # Every kernel of the network as it will be compiled has a record, of both stages 60 at most.
    assert all(state.best is not None for state in tuned.states)
    assert len(runner.measured) == len(set(runner.measured)) <= 60
    text = [form.text for form in tuned.forms]
    assert text[0].startswith("2 +1: popcount; ") and text[1].startswith("6: AMX tiles; ")


def test_a_finished_sweep_of_both_forms_measures_nothing_again(logs):
    folder, _, tuned, _ = logs
    again = Prices()
    same, _ = swept(folder, again, trials=60, resume=True)
    assert (again.measured, again.finals) == ([], 0)
    assert [s.task.key for s in same.states] == [s.task.key for s in tuned.states]
    assert same.forms == tuned.forms


def test_compile_follows_the_records(logs, tmp_path):

    def compiled(name, **options):
        return forms(build(network(), EXAMPLE, SERVER.text, out_dir=tmp_path / name, **options))

    found = compiled("measured", log_dir=logs[0])
    for name, tiles in (("2", False), ("4", False), ("6", True), ("8", True)):
        taken, note, schedule = found[name]
        assert taken is tiles and note.endswith("(measured)") and schedule == "tuned"
    found = compiled("model", log_dir=tmp_path)
    for name, tiles in (("2", True), ("4", True), ("6", False), ("8", True)):
        taken, note, schedule = found[name]
        assert taken is tiles and note.endswith("(by cost model)") and schedule == "default"
    found = compiled("wished", log_dir=logs[0], binary="popcount")
    assert not any(taken for taken, *_ in found.values())


def test_half_a_comparison_is_none(logs, tmp_path):
    """A record of one form says nothing: the cost model stays."""
    runner = Prices()
    tuned, says = swept(tmp_path, runner, binary="popcount", trials=20)
    assert not any(state.task.tiles for state in tuned.states)
    assert tuned.forms == () and says == []
    imported = tuner.Network(network(), EXAMPLE, SERVER).imported
    assert measured_figures(imported, Context(SERVER), tmp_path) == {}
    found = run_pipeline(imported, Context(SERVER), last="fuse")
    notes = [layer.notes[-1] for layer in found.report.layers if layer.shape]
    assert [note.endswith("(by cost model)") for note in notes] == [True] * 4


def test_figures_decide_before_the_cost_model():
    model = back_end(SERVER.tvm).uses_tiles()
    imported = tuner.Network(network(), EXAMPLE, SERVER).imported
    layers = run_pipeline(imported, Context(SERVER), last="lower").report.layers
    shapes = [layer.shape for layer in layers if layer.shape]
    assert [model(shape) for shape in shapes] == [True, True, False, True]
    figures = {shape: Measured(1.0, 1.0 + model(shape) - 0.5) for shape in shapes}
    measured = back_end(SERVER.tvm).uses_tiles("auto", figures)
    assert [measured(shape) for shape in shapes] == [not model(shape) for shape in shapes]
    for wish, all_ in (("amx", True), ("popcount", False)):
        wished = back_end(SERVER.tvm).uses_tiles(wish, figures)
        assert {wished(shape) for shape in shapes} == {all_}


def test_runners_that_know_no_time_leave_tiles_out(tmp_path):
    runner = Prices()
    runner.unit = "cycles"
    tuned, says = swept(tmp_path, runner, trials=8)
    assert "AMX tiles are left out: cycles" in says[0]
    assert not any(state.task.tiles for state in tuned.states)


@pytest.mark.parametrize("weights", ["bits", "bytes"])
def test_the_evolutionary_search_takes_tiles(tmp_path, weights):
    """The cost model reads the loops around tile instructions, too."""
    options = {"layer": "6", "weights": weights, "trials": 6}
    tuned, _ = swept(tmp_path, Prices(), "amx", "evolutionary", **options)
    (state,) = tuned.states
    assert state.task.tiles and len(state.curve) == 6 and state.best[1] <= state.default


@pytest.mark.parametrize("weights", ["bits", "bytes"])
def test_choices_are_legal_and_exact(library, monkeypatch, target, weights):
    """The local runner measures tiles where they run, here under the emulator in its workers."""
    monkeypatch.setenv("LD_PRELOAD", str(library))
    target = replace(target, is_native=True)
    made = tuner.Network(network(), EXAMPLE, target, amx_weights=weights)
    task = next(task for task in made.tasks(made.kernels("amx")) if task.tiles)
    listed = back_end(target.tvm).space(task.mod["main"], target.lanes)
    assert tuple(listed) == task.choices and task.default in listed
    some = [listed[0], listed[len(listed) // 2], listed[-1], task.default]
    runner = LocalRunner(target, run_timeout=120.0)
    try:
        runner.prepare(task)
        found = dict(runner.measure(task, some, 1))
    finally:
        runner.close()
    assert [found[tiles].error for tiles in some] == [""] * len(some)


def test_a_refused_permission_is_an_error_of_the_candidate(monkeypatch):
    monkeypatch.setattr(amx, "_request", lambda: 1)
    request, state = {"library": "not_loaded.so"}, worker._State()
    state.task = {"tiles": True, "device_code": False}
    refused = pytest.raises(ArtefactError, match="AMX tiles, which the operating system refuses")
    with refused, state._loaded(request):
        pass
    # Without tiles nothing is asked for.
    state.task = {"tiles": False, "device_code": False}
    with pytest.raises(Exception, match=r"not_loaded\.so"), state._loaded(request):
        pass
