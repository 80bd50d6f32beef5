"""The logs that ship with the package: sound, small, and enough for every convolution."""

from __future__ import annotations

import functools

import pytest
import torch

from tvm_insta import nn
from tvm_insta.frontend import import_torch
from tvm_insta.passes.context import Context
from tvm_insta.passes.kernels import kernels_of_layers
from tvm_insta.passes.pipeline import run_pipeline
from tvm_insta.schedules import SCHEDULE_VERSION
from tvm_insta.target import parse
from tvm_insta.tuning import curate, lookup, meta
from tvm_insta.tuning.log import TuningLog, folder_of

ARM = ("cortex-a53", "cortex-a72", "cortex-a76")
CLOCK = ("avx2", "avx512", "llvm -mcpu=znver4", "llvm -mcpu=znver5")
CARDS = ("a100", "h100")
SQUARE = ("stage1.1.conv", "stage2.1.conv", "stage3.1.conv", "stage4.1.conv")
"""The 3x3 layers of ResNet-18 that keep their image's size: 56, 28, 14 and 7."""

PRESETS = {"rpi3": "cortex-a53", "rpi4": "cortex-a72", "pixel": "cortex-a76"}
SIDES = {"resnet18": 224, "mobilenet_v1": 224, "resnet20": 32}


@functools.cache
def imported(model):
    example = torch.zeros(1, 3, SIDES[model], SIDES[model])
    return import_torch(nn.create(model, "insta").eval(), [example], max_batch=64, dynamic=True)


def sound(name):
    """The folder of a target's log and its meta data, checked."""
    folder = folder_of(lookup.packaged(), parse(name))
    assert list(curate.check(folder)) == []
    about = meta.read(folder)
    assert about.schedule_version == SCHEDULE_VERSION
    return folder, about


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_finds_the_log_of_its_core(preset):
    one, other = (folder_of(lookup.packaged(), parse(n)) for n in (preset, PRESETS[preset]))
    assert one == other and one.is_dir()


@pytest.mark.parametrize("name", ARM)
def test_a_log_is_sound_and_small(name):
    folder, about = sound(name)
    assert (about.runner, about.unit, about.threads) == ("icount", "instructions", 1)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000
    keys = {record.key for record in TuningLog(folder).records}
    assert keys == set(about.tasks)
    assert all(task.best.median <= task.default.median for task in about.tasks.values())


@pytest.mark.parametrize("name", CARDS)
def test_a_log_of_a_card_is_modelled_and_says_so(name):
    """And its best choices are better than the defaults, by the model, by what was asked for."""
    folder, about = sound(name)
    assert (about.runner, about.unit) == ("model", "modelled clocks")
    assert about.cpu.startswith("modelled: ") and "host" not in about.target
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000
    assert {record.key for record in TuningLog(folder).records} == set(about.tasks)
    layers = {layer: task for task in about.tasks.values() for layer in task.layers}
    for layer in SQUARE:
        task = layers[layer]
        assert task.default.median / task.best.median >= 1.3, (layer, task)


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_every_binary_layer_of_a_card_is_tuned(name):
    target = parse(name)
    fused = run_pipeline(imported("resnet18"), Context(target), last="fuse")
    found = lookup.look_up(fused.mod, target)
    states = {
        layer.name: [found.states.get(symbol) for symbol in symbols]
        for layer, symbols in kernels_of_layers(fused.mod, fused.report)
        if layer.kind == "binary"
    }
    assert len(states) == 16 and all(each == ["tuned"] for each in states.values()), states


@pytest.mark.slow
@pytest.mark.parametrize("model", SIDES)
@pytest.mark.parametrize("name", (*ARM, *CLOCK))
def test_every_convolution_is_tuned(model, name):
    """Another form of a network, or another schedule version, needs new logs."""
    target = parse(name)
    fused = run_pipeline(imported(model), Context(target), last="fuse")
    found = lookup.look_up(fused.mod, target)
    states = {
        (layer.name, symbol): found.states.get(symbol)
        for layer, symbols in kernels_of_layers(fused.mod, fused.report)
        for symbol in symbols or ("",)  # a layer without a kernel is not tuned
    }
    assert states and states == dict.fromkeys(states, "tuned")


@pytest.mark.parametrize("name", CLOCK)
def test_a_log_by_the_clock_is_sound(name):
    _, about = sound(name)
    assert (about.runner, about.unit, about.threads) == ("local", "seconds", 1)


def test_cores_of_one_family_have_records_of_the_same_kernels():
    """So what is tuned on one is tuned on the other, too."""
    logs = [TuningLog(folder_of(lookup.packaged(), parse(n))) for n in ("cortex-a53", "cortex-a72")]
    one, other = ({record.key for record in log.records} for log in logs)
    assert one == other
