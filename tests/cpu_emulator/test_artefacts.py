"""Plain-C artefacts of other CPUs under QEMU: loaded, run, traced, validated, and checked when
they are compiled."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import tvm_insta
from tests.cross import small_network
from tests.cross.machines import A72, A76, ARMV7
from tests.passes.networks import insert
from tests.validate.test_planted_faults import Change, op, with_attrs
from tvm_insta import cpu_emulator
from tvm_insta.cpu_emulator import emulator
from tvm_insta.errors import ArtefactError, EmulatorError, ValidationError
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.recognise import recognise_layers
from tvm_insta.validate import validate


class TwoByTwo(nn.Module):
    """Two inputs of other sizes, two outputs, and bits between them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        with torch.no_grad():
            self.conv.weight.sign_()
        self.dense = nn.Linear(5, 32)

    def forward(self, image, vector):
        shift = self.dense(vector)
        x = self.conv(torch.where(image >= shift[:, :, None, None], 1.0, -1.0))
        return x.mean(dim=(2, 3)), x[:, :3] * 0.5


def two(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, 32, 6, 5, generator=generator),
        torch.randn(count, 5, generator=generator),
    ]


@pytest.fixture(scope="module", params=[A72, ARMV7], ids=lambda machine: machine.name)
def artefact(request, tmp_path_factory):
    """Machine, network and artefact."""
    request.param.require()
    torch.manual_seed(1)
    network, folder = TwoByTwo().eval(), tmp_path_factory.mktemp(request.param.name)
    built = tvm_insta.build(
        network, two(1), request.param.target, runtime="c", out_dir=folder, max_batch=4
    )
    return request.param, network, built


@pytest.mark.qemu
def test_it_is_checked_when_it_is_compiled(artefact):
    _, _, built = artefact
    assert built.manifest.options["checked"] == "passed"
    with pytest.raises(ArtefactError, match="this machine is"):
        built.load()


@pytest.mark.qemu
def test_it_runs_and_traces_batches(artefact):
    """As the module does, image after image, on any number of threads."""
    _, network, built = artefact
    inputs = two(3, seed=2)
    found = []
    for threads in (1, 2):
        module = cpu_emulator.load(built.path, threads=threads)
        found.append([each.tobytes() for each in module(*inputs)])
    assert found[0] == found[1]
    with torch.no_grad():
        for ours, theirs in zip(module(*inputs), network(*inputs), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)
    together = module.trace(*inputs)
    alone = [module.trace(*[each[index : index + 1] for each in inputs]) for index in range(3)]
    for number, entry in enumerate(together):
        stacked = np.concatenate([trace[number].output for trace in alone])
        assert entry.output.tobytes() == stacked.tobytes(), entry.symbol


@pytest.mark.qemu
def test_it_is_validated(artefact):
    _, network, built = artefact
    findings = validate(cpu_emulator.load(built.path), network, two(2, seed=3))
    assert findings.verdict == "valid" and len(findings.sites) == 1


@pytest.mark.qemu
def test_its_time_is_none(artefact):
    module = cpu_emulator.load(artefact[2].path)
    with pytest.raises(EmulatorError, match="says nothing about time"):
        module.benchmark(*two(1))


@pytest.mark.qemu
def test_a_cpu_that_lacks_a_feature_says_so(monkeypatch):
    A76.require()
    dotprod = tvm_insta.build(
        small_network.make(),
        torch.zeros(1, *small_network.SHAPE),
        A76.target,
        runtime="c",
        check=False,
    )
    path = shutil.which("qemu-aarch64")
    for module in (cpu_emulator.loader, emulator):
        monkeypatch.setattr(module, "find", lambda *_: (path, "-cpu", "cortex-a53"))
    with pytest.raises(
        EmulatorError, match=r"under qemu-aarch64 -cpu cortex-a53: .* lacks a feature"
    ):
        cpu_emulator.load(dotprod.path)(np.zeros((1, *small_network.SHAPE), "float32"))


@pytest.mark.qemu
def test_a_fault_of_the_compiler_is_found(artefact, monkeypatch, tmp_path):
    """A comparison turned round behind the import: the imported network is right."""
    machine, network, _ = artefact

    def flipped(call):
        other = {"ge": "lt", "lt": "ge", "gt": "le", "le": "gt"}[str(call.attrs["compare"])]
        return with_attrs(call, compare=other)

    @module_pass("Fault")
    def planted(mod, context):
        return Change(mod, op("insta.threshold_pack"), lambda _, call: flipped(call)).applied()

    insert(monkeypatch, recognise_layers, planted)
    with pytest.raises(ValidationError, match="not what PyTorch computes"):
        tvm_insta.build(network, two(1), machine.target, runtime="c", out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.qemu
def test_without_an_emulator_the_imported_network_is_checked(artefact, monkeypatch, tmp_path):
    machine, network, built = artefact
    monkeypatch.setattr(cpu_emulator.loader, "find", lambda *_: None)
    other = tvm_insta.build(network, two(1), machine.target, runtime="vm", out_dir=tmp_path / "vm")
    assert other.manifest.options["checked"] == "imported network only"
    with pytest.raises(EmulatorError, match="--runtime c"):
        cpu_emulator.load(other.path)
    with pytest.raises(EmulatorError, match=f"install {machine.emulator[0]}"):
        cpu_emulator.load(built.path)


def test_what_no_emulator_runs(monkeypatch):
    """Unknown architectures and CPUs that QEMU has no model of."""
    assert emulator.find("wasm32", "") is None
    monkeypatch.setattr(emulator.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(emulator, "_known", lambda _: frozenset({"max", "cortex-a53"}))
    assert emulator.find("aarch64", "cortex-a53") == ("/usr/bin/qemu-aarch64", "-cpu", "cortex-a53")
    assert emulator.find("aarch64", "apple-m1") == ("/usr/bin/qemu-aarch64", "-cpu", "max")
    assert emulator.find("arm", None) == ("/usr/bin/qemu-arm", "-cpu", "max")
