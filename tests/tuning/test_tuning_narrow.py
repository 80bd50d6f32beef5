"""Float layers in bf16 and int8: tasks of their own, whatever calibrated them, checked exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.tuning import tiny
from tvm_insta import nn
from tvm_insta.compiler import tuner
from tvm_insta.errors import InstaError, TuneError
from tvm_insta.passes.context import Context
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.schedules import FloatVariant
from tvm_insta.schedules.x86.amx_float_cost import AmxFloats
from tvm_insta.target import parse
from tvm_insta.tuning import lookup
from tvm_insta.tuning.measure import random_arrays
from tvm_insta.tuning.options import SweepOptions
from tvm_insta.tuning.runner import LocalRunner, reference_path
from tvm_insta.tuning.workload import codes_of

AMX = parse("llvm -mcpu=sapphirerapids")
SERVER = parse("llvm -mcpu=sapphirerapids -mattr=-amx-tile")
NEEDS = {"bf16": {"avx512bf16"}, "int8": {"avx512vnni", "avxvnni"}}
EXAMPLE = torch.zeros(1, 3, 8, 8)


def network(stem, target=SERVER):
    torch.manual_seed(0)
    layers = (
        torch.nn.Conv2d(3, 32, 3, padding=1),
        nn.InstaThreshold(32),
        nn.BinaryConv2d(32, 32, 3),
    )
    return tuner.Network(torch.nn.Sequential(*layers).eval(), EXAMPLE, target, stem)


def stem_task(stem, target=SERVER):
    made = network(stem, target)
    every = made.tasks(made.kernels("popcount"))
    (task,) = (t for t in every if t.rule in ("insta_fconv", "insta_fconv_tiles"))
    return task


def test_every_kind_of_numbers_is_a_task_of_its_own():
    tasks = {stem: stem_task(stem) for stem in ("fp32", "bf16", "int8")}
    assert len({task.key for task in tasks.values()}) == 3
    codes = [codes_of(tasks[stem].mod["main"]) for stem in ("fp32", "bf16", "int8")]
    assert codes == [None, "uint16", "uint8"]
    assert all(len(task.choices) > 1 for task in tasks.values())


def test_records_count_whatever_images_calibrated(tmp_path):
    """The scale is a number in the kernel, and changes nothing of its speed."""
    made = network("int8")
    sweep = SweepOptions(trials=12, final_repeats=9, search="random")
    options = tuner.TuneOptions(SERVER.text, tmp_path, stem="int8", binary="popcount", sweep=sweep)
    tuned = tuner.tune_network(made, tiny.RecordedRunner(), options, tiny.Silent(), say=print)
    assert len(tuned.states) == 3  # stem, threshold pass, binary layer
    seen = []
    for largest in (0.5, 7.0):
        samples = [np.full((2, *EXAMPLE.shape[1:]), largest, np.float32)]
        imported = made.imported
        fused = run_pipeline(
            imported,
            Context(SERVER, float_dtype="int8", samples=samples, binary="popcount"),
            last="fuse",
        )
        seen.append(fused.mod.script())
        found = lookup.look_up(fused.mod, SERVER, tmp_path)
        assert sorted(found.states.values()) == [lookup.TUNED] * 3
    assert seen[0] != seen[1]  # other scales
    fused = run_pipeline(made.imported, Context(SERVER, binary="popcount"), last="fuse")
    found = lookup.look_up(fused.mod, SERVER, tmp_path)
    assert list(found.states.values()) == [lookup.TUNED] * 2  # all but the fp32 stem


@pytest.fixture(scope="module")
def runner():
    local = LocalRunner(tiny.NATIVE, run_timeout=20.0)
    yield local
    local.close()


@pytest.mark.parametrize("stem", ["bf16", "int8"])
def test_candidates_are_checked_with_numbers(stem, runner):
    if not tiny.NATIVE.features & NEEDS[stem]:
        pytest.skip(f"the processor has none of {', '.join(NEEDS[stem])}")
    task = stem_task(stem, tiny.NATIVE)
    runner.prepare(task)
    text = reference_path(runner.builder, task).read_text(encoding="utf-8")
    some = [task.choices[0], task.choices[len(task.choices) // 2], task.choices[-1]]
    found = dict(runner.measure(task, some, 1))
    assert [found[tiles].error for tiles in some] == [""] * 3
    # All sums are numbers, and many: a comparison of NaN with NaN would prove nothing.
    outputs = [np.frombuffer(bytes.fromhex(output), np.uint8) for output in json.loads(text)]
    values = max(outputs, key=len).view(np.float32)
    assert np.isfinite(values).all() and len(np.unique(values)) > len(values) // 2


@pytest.fixture
def in_tiles(monkeypatch):
    """On a target with AMX float layers take tiles, whatever the cost model counts."""
    monkeypatch.setattr(AmxFloats, "__call__", lambda *_: FloatVariant.TILES)


def test_weights_of_bf16_are_numbers(in_tiles):
    for task in (stem_task("bf16"), stem_task("bf16", AMX)):
        arrays = random_arrays(task.mod, 0)
        (weight,) = (a for a in arrays if a.ndim == 5)
        assert weight.dtype in (np.uint32, np.uint16)
        halves = weight.view(np.uint16).astype(np.uint32) << 16
        values = halves.view(np.float32)
        assert np.isfinite(values).all() and 0.9 < values.std() < 1.1


def test_layers_in_tiles_are_tasks(in_tiles):
    """With parameters, and for a runner that gives seconds in a process with the permission."""
    tasks = {stem: stem_task(stem, AMX) for stem in ("bf16", "int8")}
    for stem, codes in (("bf16", "uint16"), ("int8", "uint8")):
        task = tasks[stem]
        assert (task.rule, task.tiles, task.label) == ("insta_fconv_tiles", True, "0 in tiles")
        assert codes_of(task.mod["main"]) == codes and len(task.choices) > 1
    assert tasks["bf16"].key != tasks["int8"].key


def test_what_cannot_be_is_refused():
    with pytest.raises(InstaError, match="got stem 'bf16', but avx2 is not x86-64 with avx512bf16"):
        network("bf16", parse("avx2"))
    with pytest.raises(TuneError, match="got stem 'fp16', but it must be one of fp32, bf16, int8"):
        tuner.TuneOptions(stem="fp16")
