"""Public binary networks, rewritten small: packed, valid, and of PyTorch's classes."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
import torch

import tvm_insta
from tests.end_to_end import families
from tests.end_to_end.families.common import binary_layers, random_images
from tvm_insta.validate import validate

IMAGES = 32
ALL = {
    family.name: family
    for module in pkgutil.iter_modules(families.__path__)
    if module.name != "common"
    for family in importlib.import_module(f"{families.__name__}.{module.name}").FAMILIES
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_family(name):
    images = random_images(IMAGES)
    network = ALL[name].network(images)
    expected = binary_layers(network)
    with torch.no_grad():
        classes = network(images).argmax(1)
    artefact = tvm_insta.build(network, images[:1], "native", max_batch=IMAGES)
    packed = sorted(layer.name for layer in artefact.report.layers if layer.kind == "binary")
    assert packed == expected, [
        f"{layer.name}: {layer.reason}" for layer in artefact.report.layers if layer.reason
    ]
    ours = torch.from_numpy(artefact(images.numpy())).argmax(1)
    assert int((ours == classes).sum()) == IMAGES
    findings = validate(artefact.load(), network, [images])
    assert findings.verdict == "valid", (findings.failures(), findings.not_judged)
    assert findings.top1 == 1.0
    assert artefact.manifest.options["checked"] == "passed"
