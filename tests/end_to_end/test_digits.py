"""The shipped network: command line in, real images classified as PyTorch classifies them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import tvm_insta
from tvm_insta import nn, runtime
from tvm_insta import run as run_command
from tvm_insta.runtime.classify import classify
from tvm_insta.runtime.image_folder import image_files
from tvm_insta.runtime.preprocess import load_images
from tvm_insta.validate.__main__ import main as validate_main

IMAGES = Path(__file__).parents[2] / "examples" / "digits" / "test"
FORMS = ("vm", "c")


@pytest.fixture(scope="module")
def batch(digits):
    files = [f for folder in sorted(IMAGES.iterdir()) for f in image_files([folder])]
    return load_images(files, runtime.load(digits / "vm").manifest.preprocessing)


def test_both_forms_give_the_same_bits(digits, batch):
    vm, c = (classify(runtime.load(digits / form), batch) for form in FORMS)
    assert vm.tobytes() == c.tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_every_real_image_gets_pytorchs_class(digits, batch, form):
    network = nn.create("resnet20", "insta", checkpoint="digits")
    with torch.no_grad():
        expected = network(torch.from_numpy(batch)).numpy()
    ours = classify(runtime.load(digits / form), batch)
    assert (ours.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize("form", FORMS)
def test_position_and_size_of_the_batch_change_no_bit(digits, batch, form):
    module = runtime.load(digits / form)
    whole = module(batch[:8])
    for size in (1, 3, 5):
        parts = [module(batch[start : start + size]) for start in range(0, 8, size)]
        assert np.concatenate(parts)[:8].tobytes() == whole.tobytes(), size
    turned = module(np.ascontiguousarray(batch[:8][::-1]))
    assert turned[::-1].tobytes() == whole.tobytes()


def test_dlpack_tensors(digits, batch):
    module = runtime.load(digits / "vm")
    assert module(torch.from_numpy(batch[:2])).tobytes() == module(batch[:2]).tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_validate(digits, form, capsys, tmp_path):
    report = tmp_path / "findings.json"
    folder = str(digits / form)
    assert validate_main([folder, "--inputs", "4", "--per-layer", "--json", str(report)]) == 0
    text = capsys.readouterr().out
    assert "bit-exact" in text and text.rstrip().endswith("\nvalid")
    found = json.loads(report.read_text())
    assert len(found["sites"]) == 18
    assert all(site["bits"] > 0 and site["wrong_bits"] == 0 for site in found["sites"])
    assert found["top1"] == 1.0


def test_validate_on_real_images(digits, capsys):
    assert validate_main([str(digits / "vm"), "--images", str(IMAGES / "3")]) == 0
    assert "top-1 agreement: 100.00 %" in capsys.readouterr().out


def test_run_prints_the_accuracy(digits, capsys, tmp_path):
    dump = tmp_path / "batch.f32"
    assert run_command.main([str(digits / "c"), str(IMAGES), "--dump-input", str(dump)]) == 0
    text = capsys.readouterr().out
    accuracy = float(re.search(r"accuracy ([\d.]+) %", text)[1])
    assert accuracy > 95.0
    assert dump.stat().st_size == 360 * 3 * 32 * 32 * 4
    assert text.count(".png: ") == 360


def test_manifest_tells_of_every_layer(digits):
    manifest = runtime.load(digits / "vm").manifest
    kinds = [layer.kind for layer in manifest.layers]
    assert kinds.count("binary") == 18 and kinds.count("float") == 4
    for layer in manifest.layers:
        assert (layer.reason is None) == (layer.kind == "binary")
        assert layer.calls and layer.macs > 0
    assert manifest.classes == tuple("0123456789")
    assert len(manifest.binarisations) == 18


def test_build_gives_what_the_command_line_gives(digits, batch):
    network = nn.create("resnet20", "insta", checkpoint="digits")
    artefact = tvm_insta.build(network, torch.from_numpy(batch[:1]), max_batch=8)
    assert artefact(batch[:3]).tobytes() == runtime.load(digits / "vm")(batch[:3]).tobytes()
    folder = artefact.path
    assert folder.is_dir()
    del artefact
    assert not folder.exists()
