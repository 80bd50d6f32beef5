"""ResNet-18 and MobileNetV1 of 224x224, whole, on Arm: bits, activations and logits."""

from __future__ import annotations

import functools

import pytest
import torch

import tvm_insta
from tests.cross.emulated import Emulated
from tests.cross.machines import A53, A72, A76, ARMV7, GENERIC_ARM64
from tvm_insta import nn
from tvm_insta.compiler import driver
from tvm_insta.validate import validate

BINARY = {"resnet18": 16, "mobilenet_v1": 31}
CASES = [
    # model, the machine it is compiled for, others that have all that this one has
    ("resnet18", A53, (A72, A76, GENERIC_ARM64)),
    ("resnet18", A76, (GENERIC_ARM64,)),
    ("resnet18", ARMV7, ()),
    ("mobilenet_v1", A72, (A53, A76, GENERIC_ARM64)),
    ("mobilenet_v1", ARMV7, ()),
]


@functools.cache
def exported(model):
    """(network, image, the compiler's import with the graph that validate executes) of a model.

    An export knows no target, and takes longer than all else of a build: one serves every machine.
    """
    network = nn.create(model, "insta")
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    imported = driver.import_torch(network, [image], max_batch=2, dynamic=True)
    return network, image, imported


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "machine", "others"),
    CASES,
    ids=lambda value: getattr(value, "name", value if isinstance(value, str) else ""),
)
def test_bits_and_logits(model, machine, others, tmp_path, monkeypatch):
    """What ``validate`` promises on x86: every packed bit is the comparison of the artefact's own
    values; with these bits forced upon PyTorch (here, on x86) all activations agree to rounding, so
    all integers are exact; and so do the logits. Tolerances and their reasons are validate's."""
    machine.require()
    network, image, imported = exported(model)
    monkeypatch.setattr(driver, "import_torch", lambda *_, **__: imported)
    target = machine.target
    options = {"runtime": "c", "out_dir": tmp_path, "check": False}  # it is what this test does
    artefact = tvm_insta.build(network, image, target=target, **options)
    assert sum(layer.kind == "binary" for layer in artefact.manifest.layers) == BINARY[model]
    emulated = Emulated(machine, tmp_path)
    findings = validate(emulated, network, [image], graph=imported.reference)
    assert findings.failures() == [] and findings.verdict == "valid"
    assert len(findings.sites) == len(artefact.manifest.binarisations) > 15
    logits = emulated(image.numpy())
    for other in others:
        found = other.run(emulated.program, image.numpy(), (1000,))
        assert found.tobytes() == logits.tobytes(), other.name
