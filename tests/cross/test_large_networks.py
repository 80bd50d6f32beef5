"""ResNet-18 and MobileNetV1 of 224x224, whole, on Arm: bits, activations and logits."""

from __future__ import annotations

import pytest
import torch

import tvm_insta
from tests.cross.emulated import Emulated
from tests.cross.machines import A53, A72, A76, ARMV7, GENERIC_ARM64
from tvm_insta import nn
from tvm_insta.validate import validate

SHAPE = (1, 3, 224, 224)
BINARY = {"resnet18": 16, "mobilenet_v1": 31}
ALSO = {A53: (A72, A76, GENERIC_ARM64), A76: (GENERIC_ARM64,), ARMV7: ()}
"""Other processors that a build runs on: a Cortex-A53 has nothing that they lack."""


@pytest.mark.qemu
@pytest.mark.slow
@pytest.mark.parametrize("machine", ALSO, ids=lambda machine: machine.name)
@pytest.mark.parametrize("model", BINARY)
def test_bits_and_logits(model, machine, tmp_path):
    """What ``validate`` promises on x86: every packed bit is the comparison of the artefact's own
    values; with these bits forced upon PyTorch (here, on x86) all activations agree to rounding, so
    all integers are exact; and so do the logits. Tolerances and their reasons are validate's."""
    machine.require()
    network = nn.create(model, "insta")
    image = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    artefact = tvm_insta.build(network, image, target=machine.target, runtime="c", out_dir=tmp_path)
    assert sum(layer.kind == "binary" for layer in artefact.manifest.layers) == BINARY[model]
    emulated = Emulated(machine, tmp_path)
    findings = validate(emulated, network, [image])
    assert findings.failures() == [] and not findings.note
    assert len(findings.sites) == len(artefact.manifest.binarisations) > 15
    logits = emulated(image.numpy())
    for other in ALSO[machine]:
        assert Emulated(other, tmp_path)(image.numpy()).tobytes() == logits.tobytes(), other.name
